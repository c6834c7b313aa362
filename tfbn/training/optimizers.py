"""Keras' optimizers by name, and plain descriptions of optimizers and losses."""

import json
import numbers
from typing import Any

import keras

from tfbn.foundation.arguments import is_finite_number

DEFAULT_LEARNING_RATE = 0.01
# Names for which Keras has no class.
SGD_OPTIONS = {"momentum": {"momentum": 0.9}, "nesterov": {"momentum": 0.9, "nesterov": True}}
WRAPPERS = ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")  # which cannot train by themselves


def make_optimizer(
    optimizer: str | keras.optimizers.Optimizer, learning_rate: Any = None
) -> keras.optimizers.Optimizer:
    """Return a Keras optimizer by its name, or `optimizer` itself, with the learning rate set.

    >>> make_optimizer("sgd", 0.5).learning_rate.numpy().item()
    0.5
    """
    if isinstance(learning_rate, numbers.Real):
        if not (is_finite_number(learning_rate) and float(learning_rate) >= 0):
            raise ValueError(
                "`learning_rate` must be a finite number, 0 or more. "
                f"Received: learning_rate={learning_rate!r}."
            )
        learning_rate = float(learning_rate)  # Keras rejects integers.
    if isinstance(optimizer, keras.optimizers.Optimizer):
        if learning_rate is not None:
            optimizer.learning_rate = learning_rate
        return optimizer
    classes: dict[str, tuple] = {
        name.lower(): (kind, {})
        for name, kind in vars(keras.optimizers).items()
        if isinstance(kind, type) and issubclass(kind, keras.optimizers.Optimizer) and name not in WRAPPERS
    }
    classes |= {name: (keras.optimizers.SGD, options) for name, options in SGD_OPTIONS.items()}
    if not isinstance(optimizer, str) or optimizer.lower() not in classes:
        raise ValueError(
            f"Unknown optimizer {optimizer!r}. Known: {', '.join(sorted(classes))}; or pass a "
            "keras.optimizers.Optimizer."
        )
    kind, options = classes[optimizer.lower()]
    rate = DEFAULT_LEARNING_RATE if learning_rate is None else learning_rate
    return kind(learning_rate=rate, **options)


def describe_optimizer(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Return class and arguments as Keras serializes them, without names, which Keras numbers.

    >>> describe_optimizer(make_optimizer("sgd", 0.1))["config"]["learning_rate"]
    0.1
    """
    config = optimizer.get_config()
    config.pop("name", None)
    if hasattr(optimizer, "inner_optimizer"):  # Within Keras' LossScaleOptimizer.
        config["inner_optimizer"] = describe_optimizer(optimizer.inner_optimizer)
    if isinstance(config.get("learning_rate"), float):
        config["learning_rate"] = float(f"{config['learning_rate']:.7g}")  # Keras stores it in float32.
    return {"class_name": type(optimizer).__name__, "config": config}


def describe_loss(loss: Any) -> Any:
    """Return a loss as plain data: its name, or class and arguments as Keras serializes them.

    >>> described = describe_loss(keras.losses.CategoricalCrossentropy(label_smoothing=0.1))
    >>> described["config"]["label_smoothing"], describe_loss("mse")
    (0.1, 'mse')
    """
    if isinstance(loss, keras.losses.Loss):
        config = json.loads(json.dumps(loss.get_config(), default=str))
        return {"class_name": type(loss).__name__, "config": config}
    if isinstance(loss, str | None):
        return loss
    named = loss if hasattr(loss, "__qualname__") else type(loss)  # A functools.partial has no name.
    return f"{named.__module__}.{named.__qualname__}"
