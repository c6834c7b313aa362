"""Options that several commands share, and the example at the end of each command's help."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import click

from tfbn.recipes.recipe import DEFAULTS

Decorator = Callable[[Callable], Callable]


def example(line: str) -> str:
    """Return the epilog of a command's help: an example, which click must not wrap."""
    return f"\b\nExample: {line}"


def flag(*names: str, help: str) -> Decorator:
    """Return an option without a value that is off by default."""
    return click.option(*names, is_flag=True, show_default="off", help=help)


def add_options(*options: Decorator) -> Decorator:
    """Return a decorator that adds `options` to a command, in this order."""
    return lambda command: functools.reduce(lambda command, add: add(command), reversed(options), command)


def list_of(kind: Callable[[str], Any], example: str) -> Callable:
    """Return a click callback that reads "32,32" as (32, 32), and a missing option as None."""

    def parse(context, parameter, text):
        try:
            return None if text is None else tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a list of {example}.") from None

    return parse


def number_or_name(text: str) -> int | float | str:
    """Return `text` as an int, else as a float, else as it is."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


JSON = flag("--json", "as_json", help="Print the results as JSON, alone on standard output.")
DEVICE = click.option("--device", default="auto", help="Device: auto, cpu, gpu, gpu:1, ...")
DATA_DIR = click.option(
    "--data-dir",
    help="Folder of prepared data sets.",
    show_default="$TFDS_DATA_DIR or ~/tensorflow_datasets",
)
TRAINING = (
    DATA_DIR,
    flag("--no-fallback", help="Fail where MNIST is missing, instead of using the sample of it."),
    flag("--quick", help="Take a quick look in a minute or less. Other options override its settings."),
    click.option(
        "--strategy",
        type=click.Choice(["none", "mirrored", "multiworker"]),
        default="none",
        help="Split each batch over all GPUs of this machine, or over the workers of TF_CONFIG.",
    ),
    click.option("--out", help="Folder for the results.", show_default="runs/NAME-TIME"),
    flag("--resume", help="Resume the unfinished run in OUT, or else the newest one of this NAME."),
    JSON,
)
COUNT = click.IntRange(1)
# The options that set a recipe's settings of the same names.
SETTINGS: dict[str, dict[str, Any]] = {
    "dataset": dict(help="Data set: mnist, fashion_mnist, kmnist, cifar10 or another one in TFDS."),
    "train_size": dict(type=COUNT, help="Training examples.", show_default="all"),
    "validation_size": dict(
        type=COUNT, help="Validation examples.", show_default="5000; of the sample 500"
    ),
    "epochs": dict(type=COUNT, help="Passes over the training data."),
    "steps_per_epoch": dict(type=COUNT, help="Steps between two records.", show_default="one pass"),
    "batch_size": dict(type=COUNT, help="Examples in a step."),
    "seeds": dict(type=click.IntRange(1, 1000), help="Number of seeds to repeat the training with."),
    "seed": dict(type=click.IntRange(0), help="First seed. The next seeds count up from it."),
    "hidden": dict(
        callback=list_of(int, "integers such as 32,32"),
        help="Widths of the hidden layers.",
        default="32,32",
    ),
    "activation": dict(help="Keras activation of the hidden layers."),
    "initializer": dict(
        type=number_or_name,
        metavar="TEXT",
        help="Keras initializer of the weights, or the standard deviation of a normal distribution.",
    ),
    "dropout": dict(type=click.FloatRange(0, 1, max_open=True), help="Share of hidden units to drop."),
    "weight_decay": dict(type=click.FloatRange(0), help="Factor of an L2 penalty on the weights."),
    "optimizer": dict(help="Keras optimizer, momentum or nesterov."),
    "learning_rate": dict(type=click.FloatRange(0), help="Learning rate of the optimizer."),
    "reach": dict(
        type=float,
        help="Validation accuracy (or loss); the verdict compares when the networks reach it.",
        show_default="one that all reach",
    ),
    "device": dict(help="Device: auto, cpu, gpu, gpu:1, ..."),
    "precision": dict(help="float32, mixed_float16 or mixed_bfloat16."),
}


def settings(shown: str | None = None) -> Decorator:
    """Return a decorator that adds the options of a training command, SETTINGS and TRAINING.

    Args:
        shown: what the help names as the default of SETTINGS. Default None: the values of DEFAULTS.
    """
    options = []
    for name, option in SETTINGS.items():
        attributes = {"default": DEFAULTS[name], **option} | ({"show_default": shown} if shown else {})
        options.append(click.option(f"--{name.replace('_', '-')}", **attributes))
    return add_options(*options, *TRAINING)
