"""What all figures share."""

from tfbn.plots.style import by_seed


def test_by_seed_sorts_epochs_and_ignores_items_without_the_key():
    items = [{"arm": "a", "seed": 1, "epoch": 1, "x": 0}, {"arm": "b", "seed": 0, "epoch": 1, "x": 1}]
    items += [{"arm": "a", "seed": 1, "epoch": 0, "x": 2}, {"arm": "a", "seed": 0, "epoch": 0, "x": None}]
    assert {seed: [item["x"] for item in run] for seed, run in by_seed(items, "a", "x").items()} == {
        1: [2, 0]
    }
