"""Options that several commands share, and the example at the end of each command's help."""

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


class ListOf(click.ParamType):
    """A list such as 32,32, which becomes a tuple."""

    name = "list"

    def __init__(self, kind: Callable[[str], Any], example: str) -> None:
        self.kind, self.example = kind, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple:
        try:
            return tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of {self.example}.", param, ctx)


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
COUNT, FACTOR = click.IntRange(1), click.FloatRange(0)
# The options that set a recipe's settings of the same names: help, type, and the default in words where
# the value of DEFAULTS does not say it.
SETTINGS: dict[str, tuple[str, Any, str | None]] = {
    "dataset": ("Data set: mnist, fashion_mnist, kmnist, cifar10 or another one in TFDS.", str, None),
    "train_size": ("Training examples.", COUNT, "all"),
    "validation_size": ("Validation examples.", COUNT, "5000; of the sample 500"),
    "epochs": ("Passes over the training data.", COUNT, None),
    "steps_per_epoch": ("Steps between two records.", COUNT, "one pass"),
    "batch_size": ("Examples in a step.", COUNT, None),
    "seeds": ("Number of seeds to repeat the training with.", click.IntRange(1, 1000), None),
    "seed": ("First seed. The next seeds count up from it.", click.IntRange(0), None),
    "hidden": ("Widths of the hidden layers.", ListOf(int, "integers such as 32,32"), "32,32"),
    "activation": ("Keras activation of the hidden layers.", str, None),
    "initializer": ("Keras initializer, or the standard deviation of a normal one.", number_or_name, None),
    "dropout": ("Share of hidden units to drop.", click.FloatRange(0, 1, max_open=True), None),
    "weight_decay": ("Factor of an L2 penalty on the weights.", FACTOR, None),
    "optimizer": ("Keras optimizer, momentum or nesterov.", str, None),
    "learning_rate": ("Learning rate of the optimizer.", FACTOR, None),
    "reach": ("Validation accuracy (or loss) of which to compare the steps.", float, "one that all reach"),
    "device": ("Device: auto, cpu, gpu, gpu:1, ...", str, None),
    "precision": ("float32, mixed_float16 or mixed_bfloat16.", str, None),
}


def settings(shown: str | None = None) -> Decorator:
    """Return a decorator that adds SETTINGS, whose defaults the help names as `shown`, and TRAINING."""
    options = []
    for name, (help, kind, words) in SETTINGS.items():
        default = None if words else DEFAULTS[name]
        option = f"--{name.replace('_', '-')}"
        shows = shown or words or True
        options.append(click.option(option, default=default, type=kind, help=help, show_default=shows))
    return add_options(*options, *TRAINING)
