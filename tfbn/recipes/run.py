"""`run`: from a recipe's settings to networks, data and their comparison."""

import os
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfbn.comparison.arms import Arm
from tfbn.comparison.compare import compare
from tfbn.comparison.results import Comparison
from tfbn.data.arrays import Data
from tfbn.data.loading import load
from tfbn.foundation import arguments
from tfbn.models import Model, as_initializer
from tfbn.recipes.classics import find
from tfbn.recipes.recipe import Vary
from tfbn.runtime import devices, strategies
from tfbn.training.optimizers import make_optimizer

# The settings that go to `load`, `compare` and `Model` by the same name.
DATA_SETTINGS = ("data_dir", "validation_size", "fallback", "train_size", "pooled", "binary", "centered")
COMPARISON_SETTINGS = (
    *("epochs", "batch_size", "steps_per_epoch", "reach"),
    *("optimizer", "learning_rate", "loss", "device", "precision"),
)
MODEL_SETTINGS = (
    *("activation", "norm_position", "batchnorm_options"),
    *("dropout", "weight_decay", "conv_filters"),
)


def run(
    name: str,
    quick: bool = False,
    on_data: Callable[[Data], object] | None = None,
    on_epoch: Callable[[dict], None] | None = None,
    command: str | None = None,
    checkpoint_dir: str | os.PathLike | None = None,
    strategy: tf.distribute.Strategy | None = None,
    **settings: Any,
) -> Comparison:
    """Run one of the classic experiments.

    Args:
        name: a recipe, such as "side-by-side"; `tfbn.recipes.RECIPES` has all.
        quick: whether to use the settings of a quick look. Default False.
        on_data: called with the `Data` before training. Default None.
        on_epoch, command, checkpoint_dir, strategy: as in `compare`.
        settings: changes of the recipe's settings: dataset, data_dir, fallback, train_size,
            validation_size, pooled, binary, centered (see `tfbn.data.load`); hidden, depth, conv_filters,
            activation, initializer, norm_position, batchnorm_options, dropout, weight_decay (see
            `Model`); optimizer, learning_rate, loss, batch_size, epochs, steps_per_epoch, reach, device,
            precision (see `compare`); seeds, their number; seed, the first; and values, which replace
            those of the setting that the recipe varies.

    Raises:
        ValueError, TypeError: a recipe, setting or value does not exist.
        ConnectionError: the data set is not there and cannot be downloaded.

    >>> result = run("wave", quick=True, epochs=2, steps_per_epoch=10)
    >>> [record["epoch"] for record in result.records]
    [1, 2, 1, 2]
    """
    recipe = find(name)
    settings = recipe.resolve(quick, **settings)
    check(recipe.vary, settings)
    if strategy is not None:
        strategies.check_strategy(strategy, settings["device"])
    flatten = not settings["conv_filters"]
    data = load(settings["dataset"], flatten, **_select(settings, DATA_SETTINGS))
    if (data.classes == 0) != (settings["loss"] is not None):
        raise ValueError(
            f"{name} is a {'classification' if settings['loss'] is None else 'regression'}, which does not "
            f"suit the data set {data.name}. Leave `dataset` out, or choose another recipe."
        )
    if on_data is not None:
        on_data(data)
    axis = ("setting", "label", "log")
    result = compare(
        arms(recipe.vary, settings, data),
        data,
        seeds=range(settings["seed"], settings["seed"] + settings["seeds"]),
        vary={key: getattr(recipe.vary, key) for key in axis} if recipe.vary else None,
        observe=recipe.observe,
        on_epoch=on_epoch,
        command=command,
        checkpoint_dir=checkpoint_dir,
        strategy=strategy,
        **_select(settings, COMPARISON_SETTINGS),
    )
    texts = {key: getattr(recipe, key) for key in ("question", "source", "expected", "cost")}
    result.about["recipe"] = {"name": name, **texts, "changed": recipe.changed(settings)}
    result.about["figures"] = list(recipe.figures)
    return result


def _select(settings: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings of these names; a setting that the recipe varies is the arms'."""
    return {name: settings[name] for name in names if name in settings}


def check(vary: Vary | None, settings: dict[str, Any]) -> None:
    """Raise what the data is not needed for: ValueError and TypeError as in `Model` and `compare`."""
    devices.find_device(settings["device"])
    devices.check_precision(settings["precision"])
    for varied in _settings_by_value(vary, settings).values():
        keras.activations.get(varied["activation"])
        as_initializer(varied["initializer"])
        if varied["depth"] is not None:
            arguments.integer("depth", varied["depth"], at_least=1)
        if varied["learning_rate"] is not None:
            arguments.number("learning_rate", varied["learning_rate"])
        make_optimizer(varied["optimizer"], varied["learning_rate"])


def arms(vary: Vary | None, settings: dict[str, Any], data: Data) -> dict[str, Arm]:
    """Return the arms of an experiment: each varied value, with and without batch norm."""
    return {
        series if value is None else f"{series}-{value}": _arm(vary, varied, data, series, value)
        for value, varied in _settings_by_value(vary, settings).items()
        for series in ("batchnorm", "plain")
    }


def _settings_by_value(vary: Vary | None, settings: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    """Return the settings for each varied value; for the value None if nothing is varied."""
    if vary is None:
        return {None: settings}
    return {value: {**settings, vary.setting: value} for value in settings["values"] or vary.values}


def _arm(vary: Vary | None, settings: dict[str, Any], data: Data, series: str, value: Any) -> Arm:
    def build() -> Model:
        hidden = settings["hidden"]
        return Model(
            data.input_shape,
            data.classes or 1,
            hidden_dims=hidden[:1] * settings["depth"] if settings["depth"] else hidden,
            use_batchnorm=series == "batchnorm",
            kernel_initializer=settings["initializer"],
            **_select(settings, MODEL_SETTINGS),
        )

    # Initial values and rates do not change the program.
    shared = vary is not None and vary.setting in ("initializer", "learning_rate")
    return Arm(build, series, value, settings["learning_rate"], series if shared else None)
