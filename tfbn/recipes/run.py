"""`run`: from a recipe's settings to networks, data and their comparison."""

from __future__ import annotations

import keras

from tfbn.comparison.arms import Arm
from tfbn.comparison.compare import compare
from tfbn.data import loading
from tfbn.models import Model, as_initializer
from tfbn.recipes import find
from tfbn.runtime.devices import check_precision, find_device
from tfbn.runtime.strategies import check_strategy
from tfbn.training.optimizers import make_optimizer

# The settings that go on to `compare`.
COMPARED = (
    *("epochs", "batch_size", "steps_per_epoch", "reach"),
    *("optimizer", "learning_rate", "loss", "device", "precision"),
)
SERIES = {"batchnorm": True, "plain": False}


def run(
    name,
    quick=False,
    on_data=None,
    on_epoch=None,
    command=None,
    checkpoint_dir=None,
    strategy=None,
    **settings,
):
    """Run one of the classic experiments.

    Args:
        name: str, a recipe, such as "side-by-side"; `tfbn.recipes.RECIPES` has all.
        quick: bool, whether to take the settings of a quick look. Default False.
        on_data: function that is called with the `Data`, before training. Default None.
        on_epoch, command, checkpoint_dir, strategy: as in `compare`.
        settings: what to change of the recipe's settings: dataset, data_dir, fallback, train_size,
            validation_size, pooled, binary, centered (see `tfbn.data.load`); hidden, depth, conv_filters,
            activation, initializer, norm_position, batchnorm_options, dropout, weight_decay (see
            `Model`); optimizer, learning_rate, loss, batch_size, epochs, steps_per_epoch, reach, device,
            precision (see `compare`); seeds, how many; seed, the first; and values, in place of those
            that the recipe varies.

    Returns:
        `Comparison`.

    Raises:
        ValueError, TypeError: a recipe, setting or value that there is not.
        ConnectionError: the data set is not there and cannot be downloaded.

    >>> result = run("wave", quick=True, epochs=2, steps_per_epoch=10)
    >>> [record["epoch"] for record in result.records]
    [1, 2, 1, 2]
    """
    recipe = find(name)
    settings = recipe.resolve(quick, **settings)
    check(recipe.vary, settings)
    if strategy is not None:
        check_strategy(strategy, settings["device"])
    data = load(settings)
    if (data.classes == 0) != (settings["loss"] is not None):
        raise ValueError(
            f"{name} is a {'classification' if settings['loss'] is None else 'regression'}, which does not "
            f"go with the data set {data.name}. Leave `dataset` out, or take another recipe."
        )
    if on_data is not None:
        on_data(data)
    first = settings["seed"]
    result = compare(
        arms(recipe.vary, settings, data),
        data,
        seeds=range(first, first + settings["seeds"]),
        vary=recipe.vary and {name: getattr(recipe.vary, name) for name in ("setting", "label", "log")},
        observe=recipe.observe,
        on_epoch=on_epoch,
        command=command,
        checkpoint_dir=checkpoint_dir,
        strategy=strategy,
        **{name: settings[name] for name in COMPARED if name in settings},
    )
    about = {key: getattr(recipe, key) for key in ("question", "source", "expected", "cost")}
    result.about["recipe"] = {"name": name, **about, "changed": recipe.changed(settings)}
    result.about["figures"] = list(recipe.figures)
    return result


def check(vary, settings):
    """Raise for what can be known to be wrong before the data is loaded.

    Raises:
        ValueError, TypeError: as in `Model` and `compare`.
    """
    find_device(settings["device"])
    check_precision(settings["precision"])
    for each in _varied(vary, settings).values():
        keras.activations.get(each["activation"])
        as_initializer(each["initializer"])
        for name, kind, least in (("depth", int, 1), ("learning_rate", (int, float), 0)):
            value = each[name]
            if value is not None and not (isinstance(value, kind) and value >= least):
                raise ValueError(f"`{name}` must be a number, {least} or more. Received: {name}={value!r}.")
        make_optimizer(each["optimizer"], each["learning_rate"])


def load(settings):
    """The data of an experiment."""
    names = ("data_dir", "validation_size", "fallback", "train_size", "pooled", "binary", "centered")
    flatten = not settings["conv_filters"]
    return loading.load(settings["dataset"], flatten, **{name: settings[name] for name in names})


def arms(vary, settings, data):
    """The arms of an experiment: each value of what is varied, with and without batch norm."""
    return {
        series if value is None else f"{series}-{value}": _arm(vary, each, data, series, value)
        for value, each in _varied(vary, settings).items()
        for series in SERIES
    }


def _varied(vary, settings):
    """The settings for each value of what is varied; for the value None if nothing is."""
    if vary is None:
        return {None: settings}
    return {value: {**settings, vary.setting: value} for value in settings["values"] or vary.values}


def _arm(vary, settings, data, series, value):
    def build():
        hidden = settings["hidden"]
        return Model(
            data.input_shape,
            data.classes or 1,
            hidden_dims=hidden[:1] * settings["depth"] if settings["depth"] else hidden,
            use_batchnorm=SERIES[series],
            activation=settings["activation"],
            norm_position=settings["norm_position"],
            batchnorm_options=settings["batchnorm_options"],
            kernel_initializer=settings["initializer"],
            dropout=settings["dropout"],
            weight_decay=settings["weight_decay"],
            conv_filters=settings["conv_filters"],
        )

    # Initial values and rates do not change the program.
    shared = vary is not None and vary.setting in ("initializer", "learning_rate")
    return Arm(build, series, value, settings["learning_rate"], series if shared else None)
