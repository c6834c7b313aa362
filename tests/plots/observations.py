"""Observations of two arms."""

ARMS = {"batchnorm": {"series": "batchnorm"}, "plain": {"series": "plain"}}


def observed(key, value_of, arms=ARMS, seeds=(1, 0), epochs=(2, 0, 1)):
    """Observations of `key`, not in order."""
    return [
        {"arm": arm, "seed": seed, "epoch": epoch, key: value_of(arm, seed, epoch)}
        for epoch in epochs
        for seed in seeds
        for arm in arms
    ]
