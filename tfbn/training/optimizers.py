"""Keras' optimizers by name; what a result says of them and of losses."""

from __future__ import annotations

import json

import keras

DEFAULT_LEARNING_RATE = 0.01
# Names that Keras has no class for.
MOMENTUM = {"momentum": {"momentum": 0.9}, "nesterov": {"momentum": 0.9, "nesterov": True}}


def make_optimizer(optimizer, learning_rate=None):
    """A Keras optimizer, from its name or as it is, with the learning rate set.

    >>> make_optimizer("sgd", 0.5).learning_rate.numpy().item()
    0.5
    """
    if isinstance(learning_rate, (int, float)) and not 0 <= learning_rate < float("inf"):
        raise ValueError(
            "`learning_rate` must be a finite number, 0 or more. "
            f"Received: learning_rate={learning_rate!r}."
        )
    if isinstance(optimizer, keras.optimizers.Optimizer):
        if learning_rate is not None:
            optimizer.learning_rate = learning_rate
        return optimizer
    known = {
        name.lower(): (kind, {})
        for name, kind in vars(keras.optimizers).items()
        if isinstance(kind, type)
        and issubclass(kind, keras.optimizers.Optimizer)
        and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
    }
    known |= {name: (keras.optimizers.SGD, options) for name, options in MOMENTUM.items()}
    if not isinstance(optimizer, str) or optimizer.lower() not in known:
        raise ValueError(
            f"Unknown optimizer {optimizer!r}. Known: {', '.join(sorted(known))}; or pass a "
            "keras.optimizers.Optimizer."
        )
    rate = DEFAULT_LEARNING_RATE if learning_rate is None else learning_rate
    rate = float(rate) if isinstance(rate, int) else rate  # Keras refuses integers.
    kind, options = known[optimizer.lower()]
    return kind(learning_rate=rate, **options)


def describe_optimizer(optimizer):
    """Class and arguments as Keras serializes them, less names, which Keras numbers.

    >>> describe_optimizer(make_optimizer("sgd", 0.1))["config"]["learning_rate"]
    0.1
    """
    config = optimizer.get_config()
    config.pop("name", None)
    if hasattr(optimizer, "inner_optimizer"):  # Within Keras' LossScaleOptimizer.
        config["inner_optimizer"] = describe_optimizer(optimizer.inner_optimizer)
    if isinstance(config.get("learning_rate"), float):
        config["learning_rate"] = float(f"{config['learning_rate']:.7g}")  # It was kept in float32.
    return {"class_name": type(optimizer).__name__, "config": config}


def describe_loss(loss):
    """A loss in plain data: its name, or class and arguments as Keras serializes them.

    >>> described = describe_loss(keras.losses.CategoricalCrossentropy(label_smoothing=0.1))
    >>> described["config"]["label_smoothing"], describe_loss("mse")
    (0.1, 'mse')
    """
    if isinstance(loss, keras.losses.Loss):
        return {
            "class_name": type(loss).__name__,
            "config": json.loads(json.dumps(loss.get_config(), default=str)),
        }
    if isinstance(loss, str | None):
        return loss
    named = loss if hasattr(loss, "__qualname__") else type(loss)  # A functools.partial has no name.
    return f"{named.__module__}.{named.__qualname__}"
