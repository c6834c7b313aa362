"""`Solver`: one `keras.Model`, its optimizer, and epochs that are one compiled program each."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfbn.data.arrays import Data
from tfbn.data.streams import Stream
from tfbn.foundation.arguments import integer
from tfbn.foundation.provenance import versions
from tfbn.runtime.devices import describe_device, set_precision
from tfbn.runtime.strategies import broadcast_from_chief, check_trainable, describe_strategy
from tfbn.training.callbacks import Hooks
from tfbn.training.checkpoints import Checkpoints, check_workers_agree, digest, open_folder
from tfbn.training.feeds import Arrays, Network, evaluation_feed, fit_feeds
from tfbn.training.loop import History, last_logs, run_epochs
from tfbn.training.objectives import Objective
from tfbn.training.optimizers import describe_loss, describe_optimizer, make_optimizer
from tfbn.training.signatures import describe_network
from tfbn.training.steps import make_steps


class Evaluation(NamedTuple):
    """Mean loss, in nats per example for the default loss, and accuracy as a fraction."""

    loss: float
    accuracy: float


class Solver:
    """A model with its optimizer and loss, which trains and evaluates it.

    The model is compiled with the solver's optimizer, loss and metrics and keeps them, so that it can
    be saved and trained further by Keras. A step is Keras' own `train_step`. The attributes `model`,
    `device`, `jit` and `strategy` are the arguments, `device` and `jit` as they were decided.

    Args:
        model: a model with one input and one output. With the default loss, it returns a score for each
            class: logits, or probabilities where its last layer is a softmax.
        optimizer: the name of a Keras optimizer, "momentum" or "nesterov" (SGD with a momentum of 0.9), or
            an optimizer. Default "adam".
        learning_rate: a number or a schedule of `keras.optimizers.schedules`. Default None: 0.01 if
            `optimizer` is a name, the optimizer's own otherwise.
        loss: a Keras loss or its name. Default None: cross-entropy, of integer or one-hot labels, and of
            logits or probabilities, as the operations show that compute the model's output.
        metrics: Keras metrics or their names, or None for none. Default ("accuracy",). By name, a metric
            reads outputs as the loss does: under a binary cross-entropy of logits or a hinge loss, accuracy
            cuts each output at 0. Labels take the form, one-hot or integers, that metrics of Keras need.
        jit: whether XLA compiles epochs. Default "auto": True, except for convolutions on a CPU, where
            XLA is many times slower. Where XLA fails, the solver warns, and `jit` is False from then on.
        device: "auto", "cpu", "gpu" or one by number such as "gpu:1". Default "auto": the first GPU
            if TensorFlow has one, else the CPU. The model's variables must be there.
        precision: "float32", "mixed_float16" or "mixed_bfloat16", a Keras dtype policy for all layers
            of the model. Default None: the layers' own.
        strategy: `tf.distribute.MirroredStrategy` or `MultiWorkerMirroredStrategy`. Each batch is split
            over its replicas, without XLA (see `tfbn.training.steps`). The result is that of one device
            with the whole batch, if the batch norm layers are `synchronized`; those of a `tfbn.Model` built
            in the strategy's scope are. Create the model, and an `optimizer` that is not a name, within
            ``with strategy.scope():``. Several workers must make the same calls with the same data; only
            the chief writes checkpoints, and callbacks run on each worker. Create one strategy in a
            process, later ones with ``cross_device_ops=tf.distribute.ReductionToOneDevice()``. Default
            None: one device.

    Raises:
        ValueError: the optimizer, device or precision is unknown; the message lists those that exist.
            Also if the model has several inputs or outputs, or a train_step of its own. Under a strategy
            also if the model or optimizer was created outside of its scope, the optimizer clips or
            accumulates gradients, or the loss is not a mean.
        TypeError: `model` is not a `keras.Model`, or `strategy` is not one of those above.
        ConnectionError: raised by all that trains or evaluates, when another worker has stopped.

    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
    >>> solver = Solver(model, optimizer="sgd", learning_rate=0.5)
    >>> x, y = np.eye(2, dtype="float32"), np.array([0, 1])
    >>> before = solver.evaluate(x, y)
    >>> history = solver.fit(x, y, epochs=20, batch_size=2)
    >>> solver.evaluate(x, y).loss < before.loss
    True
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule | None = None,
        loss: Any = None,
        metrics: Sequence | None = ("accuracy",),
        jit: bool | str = "auto",
        device: str = "auto",
        precision: str | None = None,
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        _check_model(model)
        objective = Objective(loss, metrics)
        if jit not in ("auto", True, False):
            raise ValueError(f"`jit` must be 'auto', True or False. Received: jit={jit!r}.")
        self._steps = make_steps(model, device, jit, strategy)
        self.model, self.strategy, self.device = model, strategy, self._steps.device
        if precision is not None:
            set_precision(model, precision)
        with self._steps.place():  # The metrics create their variables here.
            optimizer = make_optimizer(optimizer, learning_rate)
            check_trainable(strategy, model, optimizer, loss)
            # Loss and metrics come with the first data, which decide how to read outputs and labels.
            model.compile(optimizer, loss)
        self._network = Network(model, self._steps, objective)
        # At the start: callbacks change the learning rate, and a failure of XLA changes `jit`.
        self._start = {"optimizer": describe_optimizer(model.optimizer), "jit": self.jit}

    @property
    def jit(self) -> bool:
        return self._steps.jit

    def train(self, x: ArrayLike | Arrays, y: ArrayLike | None) -> float:
        """Train one step on one batch ``(x, y)``, as in `fit`, and return its loss before the step."""
        return self._steps.averaged(self._steps.train, *self.prepare(x, y))["loss"]

    def evaluate(
        self,
        x: ArrayLike | Arrays | tf.data.Dataset,
        y: ArrayLike | None = None,
        batch_size: int | None = None,
    ) -> Evaluation:
        """Return ``(loss, accuracy)`` in inference mode; accuracy is nan without such a metric.

        Args:
            x, y: arrays or a dataset, as in `fit`, whose errors are raised here, too.
            batch_size: examples per batch. A smaller last batch counts by its size, so that the result
                does not depend on `batch_size`. Default None: 1,000. A dataset has its own.
        """
        logs = evaluation_feed(self._network, x, y, batch_size).evaluate()
        return Evaluation(logs["loss"], logs.get("accuracy", float("nan")))

    def fit(
        self,
        x: ArrayLike | Arrays | tf.data.Dataset | Data | Stream,
        y: ArrayLike | None = None,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        validation_data: tuple | tf.data.Dataset | None = None,
        shuffle: bool = True,
        seed: int = 0,
        callbacks: Any = (),
        initial_epoch: int = 0,
        verbose: int = 0,
        checkpoint_dir: str | os.PathLike | None = None,
    ) -> History:
        """Train up to epoch number `epochs`.

        Arrays stay in memory as tensors, and each epoch over them is one compiled program. Batches of a
        dataset are checked and fetched ahead, and memory stays flat; one call runs many compiled steps.

        Args:
            x: array ``[N, ...]``; or `tfbn.data.Data` or `Stream`, whose training split is trained on and
                whose validation split is validated on; or a finite `tf.data.Dataset` of batches ``(x, y)``.
            y: labels ``[N]``, or one-hot ``[N, classes]``; None for data and datasets.
            epochs: the number of the last epoch. Default 1.
            batch_size: examples per step, fewer in the last. Default 32. A dataset has its own.
            validation_data: ``(x, y)`` or a dataset, evaluated after each epoch. Default None.
            shuffle: whether each epoch draws a new order of the examples, but of a dataset. Default True.
            seed: determines the orders. Default 0.
            callbacks: Keras callbacks, called where Keras' fit calls them, with the same logs, but never at
                a batch: `stop_training` ends training after an epoch. A callback that waits for batches
                gives a warning. Default: none.
            initial_epoch: epochs already done. Default 0.
            verbose: 0 for silence (default), 1 or 2 for Keras' line per epoch.
            checkpoint_dir: folder for the state of the training. Where the folder holds a state of the
                same training, it resumes after its last epoch, whatever the model's weights are now, and
                ends at the same weights to the last bit. More `epochs` than before train further, unless
                the training had ended early. The same training has the same architecture, data and
                settings; of a dataset, form and name are compared, and the order of one that shuffles
                itself is not saved. Of a callback, the attributes are saved that changed since its
                `on_train_begin`: numbers, strings, arrays, lists and dicts of them. Default None: no
                checkpoints.

        Returns:
            A record per epoch: epoch, loss and accuracy averaged over its steps, val_loss and val_accuracy
            after it, what callbacks add to the logs, seconds (of training; the first epoch's include
            compiling). Training ends early at a loss that is not finite and at Ctrl-C, with a warning.

        Raises:
            TypeError: `epochs`, `batch_size`, `seed` or `initial_epoch` is not an integer.
            RuntimeError: the loss is not finite under a ``TerminateOnNaN(raise_error=True)``.
            ValueError: shapes that do not fit; labels outside the classes; NaN or infinity in `x`; a
                batch size below 1 or above the number of examples; a `checkpoint_dir` of another training.
        """
        epochs = integer("epochs", epochs, at_least=1)
        seed = integer("seed", seed, at_least=0)
        initial_epoch = integer("initial_epoch", initial_epoch, at_least=0)
        train, validation = fit_feeds(self._network, x, y, validation_data, batch_size, shuffle, seed)
        history = History(about=self.about(batch_size=train.batch_size, seed=seed))
        identity = self._identity(train, validation, seed, shuffle)
        check_workers_agree(identity, self.strategy)
        options = dict(model=self.model, epochs=epochs, steps=train.steps_per_epoch, verbose=verbose)
        hooks = Hooks(callbacks, add_progbar=bool(verbose), **options)
        variables = [*self.model.variables, *self.model.optimizer.variables]
        storage = Checkpoints(variables, self.strategy), checkpoint_dir
        with contextlib.ExitStack() as stack:
            if checkpoint_dir is not None:
                about = {**history.about, **identity}
                broadcast_from_chief(self.strategy, lambda: open_folder(checkpoint_dir, about, stack))
            run_epochs(self.model, train, validation, history, hooks, initial_epoch, epochs, *storage)
        self.finish()
        hooks.on_train_end(last_logs(history))
        history.about["jit"] = self.jit  # XLA may have failed in between.
        return history

    def _identity(self, train, validation, seed, shuffle):
        """Return what all workers, and a resumed training and its beginning, must have in common."""
        return {
            **self._start,
            "batch_size": train.batch_size,
            "seed": seed,
            "network": digest([], describe_network(self.model)),
            "shuffle": shuffle,
            "loss": describe_loss(self.model.loss),
            "metrics": self.model.metrics_names,
            "data": train.identity,
            "validation_data": None if validation is None else validation.identity,
        }

    def about(self, **more: Any) -> dict[str, Any]:
        """Return what a result says of its origin, with `more` of it."""
        return {
            "device": describe_device(self.device),
            "strategy": describe_strategy(self.strategy),
            "jit": self.jit,
            "precision": (self.model.layers or [self.model])[-1].dtype_policy.name,
            "optimizer": describe_optimizer(self.model.optimizer),
            "versions": versions(),
            **more,
        }

    def restart(self, fresh: keras.Model, learning_rate: float | None = None) -> None:
        """Restart from the weights of `fresh`, another build of the same model, without compiling again.

        `learning_rate` is a new rate. Default None: the rate that the solver started with.
        """
        self._network.restart(fresh, learning_rate)

    def prepare(self, x: ArrayLike | Arrays, y: ArrayLike | None = None) -> Arrays:
        """Check arrays against the model and move them to the device.

        `evaluate` and `fit`, also those of other solvers on this device, accept the result in place of `x`
        and `y` without copying it again. Arguments and errors are those of `fit`.
        """
        return self._network.prepare(x, y)

    def train_epoch(
        self, arrays: Arrays, order: Sequence[int] | np.ndarray, batch_size: int
    ) -> dict[str, float]:
        """Train for one epoch, one compiled program, and return the loss and the metrics averaged over it.

        `arrays` come from `prepare`. The steps take their rows in `order` ``[M]``, `batch_size` at a time;
        the last step may be smaller.
        """
        return self._steps.averaged(self._steps.train_epoch, *arrays, order, batch_size)

    def finish(self) -> None:
        """Finish training as Keras does: an optimizer with ``use_ema`` sets the weights to its averages."""
        with self._steps.place():
            self.model.optimizer.finalize_variable_values(self.model.trainable_variables)


def _check_model(model: keras.Model) -> None:
    """Raise TypeError or ValueError unless `model` is a `keras.Model` that a solver can train."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {model!r}, a {type(model).__name__}.")
    inputs, outputs = (len(getattr(model, name, None) or [1]) for name in ("inputs", "outputs"))
    if max(inputs, outputs) > 1:
        raise ValueError(f"`model` must have one input and one output. Received: {inputs} and {outputs}.")
    if isinstance(getattr(model, "input", None), dict):
        raise ValueError("`model` must take its input as a tensor. Received: a model of a dict of inputs.")
    names = ("train_step", "test_step", "compile", "metrics", "get_metrics_result", "reset_metrics")
    own = [name for name in names if getattr(type(model), name) is not getattr(keras.Model, name)]
    if own:
        raise ValueError(
            f"`model` must train by Keras' own {', '.join(own)}. {type(model).__name__} has its own: train "
            "it by its fit."
        )
