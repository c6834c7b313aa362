"""What the commands show during the training, in a terminal and elsewhere."""

import io

import pytest
from rich.console import Console

from tfbn.cli.console import live


def record(arm, epoch, loss=0.5):
    scores = {
        "train_loss": loss,
        "validation_loss": 0.25,
        "train_accuracy": 0.75,
        "validation_accuracy": 1.0,
    }
    return {"arm": arm, "seed": 3, "epoch": epoch} | scores


@pytest.mark.parametrize(("swept", "epochs"), [(False, [1, 2]), (True, [2])])
def test_live_prints_a_line_per_epoch_or_in_a_sweep_per_run(swept, epochs):
    console = Console(file=io.StringIO(), width=200)
    with live(console, runs=1, epochs=2, swept=swept) as on_epoch:
        for epoch in (1, 2):
            on_epoch(record("plain", epoch))
    scores = "loss 0.500/0.250 accuracy 0.750/1.000 (training/validation)"
    expected = [f"seed 3 epoch {epoch:>2} plain     {scores}" for epoch in epochs]
    assert console.file.getvalue().splitlines() == expected


def test_live_prints_the_last_epoch_of_a_run_that_diverged():
    console = Console(file=io.StringIO(), width=200)
    with live(console, runs=1, epochs=9, swept=True) as on_epoch:
        on_epoch(record("plain", 1, loss=float("nan")))
    assert console.file.getvalue().startswith("seed 3 epoch  1 plain     loss nan/0.250")


def test_live_fills_the_bars_of_both_series_in_a_terminal():
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    with live(console, runs=2, epochs=4, swept=True) as on_epoch:
        for epoch in range(1, 5):
            on_epoch(record("batchnorm-0.1", epoch))
        on_epoch(record("plain-0.1", 1))
        on_epoch(record("plain-[x]", 2, loss=float("nan")))  # A run that diverged counts as finished.
    batchnorm, plain = console.file.getvalue().split("batchnorm")[-1].split("plain", maxsplit=1)
    assert "4/8" in batchnorm and "0.1 loss 0.500/0.250" in batchnorm
    assert "4/8" in plain and "[x] loss nan/0.250" in plain
