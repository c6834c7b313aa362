"""The options of the commands that train."""

from __future__ import annotations

import contextlib
import functools

import click

from tfbn.recipes.recipe import DEFAULTS


def list_of(kind, example):
    """A click callback: "32,32" -> (32, 32); None where nothing was given."""

    def parse(context, parameter, text):
        try:
            return None if text is None else tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise click.BadParameter(f"{text!r} is no list of {example}.") from None

    return parse


def number_or_name(text):
    """A text as an int, else as a float, else as it is."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


SETTINGS = {
    "dataset": dict(help="mnist, fashion_mnist, kmnist, cifar10 or the like in TFDS."),
    "data_dir": dict(
        help="Folder of prepared data.", show_default="$TFDS_DATA_DIR or ~/tensorflow_datasets"
    ),
    "train_size": dict(type=click.IntRange(1), help="Examples to train on.", show_default="all"),
    "validation_size": dict(
        type=click.IntRange(1), help="Examples held out.", show_default="5000; 500 of the sample"
    ),
    "epochs": dict(type=click.IntRange(1), help="Passes over the training data."),
    "steps_per_epoch": dict(
        type=click.IntRange(1), help="Steps between two records.", show_default="a pass"
    ),
    "batch_size": dict(type=click.IntRange(1), help="Examples a step."),
    "seeds": dict(type=click.IntRange(1, 1000), help="How many seeds to repeat the training with."),
    "seed": dict(type=click.IntRange(0), help="The first seed; the others follow by one."),
    "hidden": dict(
        callback=list_of(int, "integers such as 32,32"),
        help="Widths of the hidden layers.",
        default="32,32",
    ),
    "activation": dict(help="A Keras activation."),
    "initializer": dict(
        callback=lambda context, parameter, text: text and number_or_name(text),
        help="Of the weights: a Keras initializer, or the standard deviation of a normal distribution.",
    ),
    "dropout": dict(type=click.FloatRange(0, 1, max_open=True), help="Share of hidden units dropped."),
    "weight_decay": dict(type=click.FloatRange(0), help="Factor of an L2 penalty on the weights."),
    "optimizer": dict(help="A Keras optimizer, momentum or nesterov."),
    "learning_rate": dict(type=click.FloatRange(0), help="The optimizer's learning rate."),
    "reach": dict(
        type=float,
        help="Validation accuracy (or loss) of which to say when it was reached.",
        show_default="one that all reach",
    ),
    "device": dict(help="auto, cpu, gpu, gpu:1, ..."),
    "precision": dict(help="float32, mixed_float16 or mixed_bfloat16."),
}


def settings(shown=None):
    """The options of every run, and those of SETTINGS.

    Args:
        shown: str, what the help says of every default. Default None: those of DEFAULTS.
    """
    options = [
        click.option("--out", help="Folder for the results.", show_default="runs/NAME-TIME"),
        click.option(
            "--resume",
            is_flag=True,
            help="Go on with a run that was cut off: that in OUT, or else the newest of this name.",
        ),
        click.option("--no-fallback", is_flag=True, help="Fail rather than take the sample of MNIST."),
        click.option(
            "--json", "as_json", is_flag=True, help="Print results.json alone on standard output."
        ),
        click.option(
            "--strategy",
            type=click.Choice(["none", "mirrored", "multiworker"]),
            default="none",
            show_default="none",
            help="Split each batch over all GPUs here, or over the workers of TF_CONFIG.",
        ),
        click.option(
            "--quick", is_flag=True, help="A look in a minute or less; what is given still holds."
        ),
    ]
    for name, option in reversed(SETTINGS.items()):
        default = {"show_default": shown} if shown else {"default": DEFAULTS[name], "show_default": True}
        options.append(click.option(f"--{name.replace('_', '-')}", **{**default, **option}))
    return lambda command: functools.reduce(lambda command, option: option(command), options, command)
