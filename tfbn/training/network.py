"""`Network`: a compiled model that checks its data and creates its variables at the first of them."""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfbn.data.arrays import as_classes, check_examples
from tfbn.layers.inspection import final_activation
from tfbn.training.steps import DeviceSteps


class Arrays(NamedTuple):
    """Examples and labels, checked and on a device, as `Solver.prepare` returns them."""

    x: tf.Tensor
    y: tf.Tensor


def check_model(model: keras.Model) -> None:
    """Raise TypeError or ValueError unless `model` is a `keras.Model` that a solver can train."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {model!r}, a {type(model).__name__}.")
    inputs, outputs = (len(getattr(model, name, None) or [1]) for name in ("inputs", "outputs"))
    if max(inputs, outputs) > 1:
        raise ValueError(f"`model` must have one input and one output. Received: {inputs} and {outputs}.")
    steps = ("train_step", "test_step")
    if any(getattr(type(model), step) is not getattr(keras.Model, step) for step in steps):
        raise ValueError(
            "`model` must train by Keras' own train_step and test_step, whose metrics the solver "
            f"reads. {type(model).__name__} has its own: train it by its fit."
        )


def cross_entropy(model: keras.Model) -> keras.losses.Loss:
    """Return the default loss: of probabilities where the model ends in a softmax, else of logits."""
    logits = final_activation(model) != "softmax"
    return keras.losses.SparseCategoricalCrossentropy(from_logits=logits)


class Network:
    """A compiled model and its steps. `loss` is the solver's: None for cross-entropy, of class labels."""

    def __init__(self, model: keras.Model, steps: DeviceSteps, loss: Any) -> None:
        self.model, self.steps = model, steps
        self._loss = loss
        self._outputs: dict[tuple, Any] = {}  # The symbolic output for each shape of input that came.
        self._optimizer_start: list[tuple] = []  # The optimizer's variables and their first values.

    def prepare(self, x: ArrayLike | Arrays, y: Any = None) -> Arrays:
        """Check arrays against the model and move them to the device; see `Solver.prepare`."""
        shape = tuple(x.x.shape) if isinstance(x, Arrays) else np.shape(x)
        self._check_shape(shape)
        classes = self.classes(shape)
        if classes == 1:
            raise ValueError(
                "The model has one output, and the cross-entropy over one class is always 0. Give the "
                "solver a `loss`, such as 'mse' or keras.losses.BinaryCrossentropy(from_logits=True)."
            )
        if isinstance(x, Arrays):
            arrays = x
            if classes is not None:
                as_classes(arrays.y.numpy(), classes)
        else:
            x, y = check_examples(x, y, classes)
            with self.steps.place():
                arrays = Arrays(tf.constant(x), tf.constant(y))
        if not self._optimizer_start:
            self.steps.create_variables(*arrays, self._output(shape), self._loss)
            self._optimizer_start = [(each, each.numpy()) for each in self.model.optimizer.variables]
        return arrays

    def classes(self, shape: tuple) -> int | None:
        """Return the number of classes of the labels, for inputs of this shape; None for other targets."""
        output = self._output(shape)  # Also for other targets: it creates the weights.
        return output.shape[-1] if self._loss is None else None

    def restart(self, fresh: keras.Model, learning_rate: float | None = None) -> None:
        """Copy the weights of `fresh` and restore the optimizer's first state; see `Solver.restart`."""
        for shape in self._outputs:
            if not fresh.built:
                self._build(fresh, shape)
        for variable, value in zip(self.model.variables, fresh.variables, strict=True):
            variable.assign(value)
        for variable, value in self._optimizer_start:
            variable.assign(value)
        if learning_rate is not None:
            self.model.optimizer.learning_rate = learning_rate

    def _check_shape(self, shape):
        if not getattr(self.model, "inputs", None):
            return  # A model that waits for its first input, or takes any.
        expected = self.model.input_shape
        if len(shape) != len(expected) or any(
            size not in (None, received) for size, received in zip(expected, shape, strict=True)
        ):
            hint = " Batch the examples, for example by dataset.batch(32)." if shape == expected[1:] else ""
            raise ValueError(
                f"x must have the shape {expected} that the model takes. Received: {shape}.{hint}"
            )

    def _output(self, shape):
        shape = (None, *shape[1:])
        if shape not in self._outputs:
            self._outputs[shape] = self._build(self.model, shape)
        return self._outputs[shape]

    def _build(self, model, shape):
        """Return the symbolic output, which computes nothing but creates the weights of a model without."""
        with self.steps.place():
            return model(keras.KerasTensor(shape))
