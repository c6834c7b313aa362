"""Arguments for `judge` from arrays of scores."""


def by_seed(values):
    return dict(enumerate(map(float, values)))


def side_by_side(**scores):
    """Arguments of `judge`: records of one epoch and equal tests, an arm for each array of scores."""
    runs = [(arm, seed, x) for arm, xs in scores.items() for seed, x in enumerate(xs)]
    records = [
        {"arm": arm, "seed": seed, "epoch": 1, "validation_loss": 1 - x, "validation_accuracy": x}
        for arm, seed, x in runs
    ]
    test = [{"arm": arm, "seed": seed, "loss": 1 - x, "accuracy": x} for arm, seed, x in runs]
    return records, test, {arm: {"series": arm, "value": None} for arm in scores}, []


def sweep(**scores):
    """Arguments of `judge` from arrays [values, seeds]: series of an arm for each value."""
    flat = {f"{name} {i}": row for name, rows in scores.items() for i, row in enumerate(rows)}
    records, test, _, _ = side_by_side(**flat)
    arms = {arm: {"series": arm.split()[0], "value": 10.0 ** -int(arm.split()[1])} for arm in flat}
    return records, test, arms, []


def deciding(verdict, other="plain"):
    """The quantity that decides, and its difference."""
    return next(iter(verdict.differences[other].items()))
