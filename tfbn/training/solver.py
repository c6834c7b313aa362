"""`Solver`: one `keras.Model`, its optimizer, and epochs that are one compiled program each.

Nothing here knows of batch normalization.
"""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfbn.data.arrays import Data, as_classes, batch_order, check_batch_size, check_examples
from tfbn.data.streams import Stream, batched, grouped_batches, read_batches
from tfbn.foundation.provenance import versions
from tfbn.layers.inspection import final_activation
from tfbn.runtime import strategies
from tfbn.runtime.devices import describe_device, find_device, set_precision
from tfbn.runtime.selftest import choose_jit
from tfbn.training.checkpoints import Checkpoints, check_workers_agree, digest, open_folder
from tfbn.training.history import History
from tfbn.training.optimizers import describe_loss, describe_optimizer, make_optimizer
from tfbn.training.signatures import describe_network
from tfbn.training.steps import Steps

EVALUATION_BATCH_SIZE = 1000
# Over a dataset, of which so many steps are one call, if their batches take no more bytes.
STEPS_A_CALL = 100
BYTES_A_CALL = 64 * 2**20


class Evaluation(NamedTuple):
    """Mean loss, in nats an example for the default loss, and accuracy as a fraction."""

    loss: float
    accuracy: float


class Arrays(NamedTuple):
    """Examples and labels, checked and on a device, as `Solver.prepare` gives them."""

    x: tf.Tensor
    y: tf.Tensor


class Solver:
    """Trains and evaluates one model.

    The model is compiled with the solver's optimizer, loss and metrics and keeps them, so that it can
    be saved and trained further by Keras. A step is Keras' own `train_step`.

    Args:
        model: a `keras.Model`. With the default loss it gives a score for each class: logits, or
            probabilities where its last layer is a softmax.
        optimizer: the name of a Keras optimizer, "momentum" or "nesterov" (SGD with a momentum of 0.9), or
            an optimizer. Default "adam".
        learning_rate: float or `keras.optimizers.schedules.LearningRateSchedule`. Default None: 0.01
            for a name, an optimizer's own otherwise.
        loss: a Keras loss or its name. Default None: cross-entropy, for labels given as integers or
            one-hot.
        metrics: Keras metrics or their names. Default ("accuracy",).
        jit: whether epochs are compiled by XLA. Default "auto": yes, except for convolutions on a
            CPU, where XLA is many times slower. Where XLA fails, the solver warns and goes on
            without; `jit` then is False.
        device: "auto", "cpu", "gpu" or one by number such as "gpu:1". Default "auto": the first GPU
            if TensorFlow sees one, else the CPU. The model has to live there.
        precision: "float32", "mixed_float16" or "mixed_bfloat16", a Keras dtype policy for all layers
            of the model. Default None: the layers' own.
        strategy: `tf.distribute.MirroredStrategy` or `MultiWorkerMirroredStrategy`, over whose replicas
            each batch is split (see `tfbn.replicas`); the result is that of one device with the whole
            batch, if the batch norm layers are `synchronized`, as those of a `tfbn.Model` that is built
            in its scope are. The model and an `optimizer` that is no name have to be created within
            ``with strategy.scope():``. There is no XLA then. Several workers have to make the same calls
            with the same data; the chief alone writes checkpoints, and callbacks are called on each.
            Default None: one device.

    Attributes:
        model, device, jit, strategy: as above, `device` and `jit` as they were decided.

    Raises:
        ValueError: an unknown optimizer, device or precision, with those that there are.
            Also a model of several inputs or outputs, or with a train_step of its own.
            And a model or optimizer that was not created in the strategy's scope, an optimizer that
            clips or accumulates gradients, or a loss that is no mean, under a strategy.
        TypeError: `model` is no `keras.Model`, or `strategy` none of those.
        ConnectionError: from whatever trains or evaluates, when another worker is gone.

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
        model,
        optimizer="adam",
        learning_rate=None,
        loss=None,
        metrics=("accuracy",),
        jit="auto",
        device="auto",
        precision=None,
        strategy=None,
    ):
        if not isinstance(model, keras.Model):
            raise TypeError(
                f"`model` must be a keras.Model. Received: {model!r}, a {type(model).__name__}."
            )
        if (
            len(getattr(model, "inputs", None) or [1]) > 1
            or len(getattr(model, "outputs", None) or [1]) > 1
        ):
            raise ValueError(
                "`model` must have one input and one output. Received: "
                f"{len(model.inputs)} and {len(model.outputs)}."
            )
        steps = ("train_step", "test_step")
        if any(getattr(type(model), step) is not getattr(keras.Model, step) for step in steps):
            raise ValueError(
                "`model` must train by Keras' own train_step and test_step, whose metrics the solver "
                f"reads. {type(model).__name__} has its own: train it by its fit."
            )
        if jit not in ("auto", True, False):
            raise ValueError(f"`jit` must be 'auto', True or False. Received: jit={jit!r}.")
        self.model = model
        self.strategy = strategy
        if strategy is None:
            self.device = find_device(device)
            jit = choose_jit(model, self.device, jit)
        else:
            strategies.check_strategy(strategy, device, jit)
            self.device, jit = strategies.device_of(strategy), False
        self._steps = Steps(model, self.device, jit, strategy)
        if precision is not None:
            set_precision(model, precision)
        self._loss, self._labels_are_classes = loss, loss is None
        with self._steps.place():  # The metrics create their variables here.
            optimizer = make_optimizer(optimizer, learning_rate)
            if strategy is not None:
                strategies.check_trainable(strategy, model, optimizer, loss)
            model.compile(
                optimizer=optimizer,
                loss=_cross_entropy(model) if loss is None else loss,
                metrics=list(metrics),
            )
        # As it began: callbacks change the rate, and a failure whether XLA compiles.
        self._begun = {"optimizer": describe_optimizer(model.optimizer), "jit": jit}
        self._input_shape = self._classes = None  # Known once the model is built.
        self._initial_optimizer_state = None  # Known once its variables are.

    @property
    def jit(self):
        return self._steps.jit

    def train(self, x, y):
        """One step on one batch.

        Args:
            x: array ``[N, ...]``.
            y: labels ``[N]``, or one-hot ``[N, classes]``.

        Returns:
            float, the loss on the batch as it was before the step.

        Raises:
            ValueError: as in `fit`.
        """
        batch = self.prepare(x, y)
        self._steps.reset_metrics()
        self._steps.train(*batch)
        return self._steps.metrics()["loss"]

    def evaluate(self, x, y=None, batch_size=None):
        """Loss and accuracy in inference mode.

        Args:
            x: array ``[N, ...]``, or a `tf.data.Dataset` of batches ``(x, y)``.
            y: labels as in `train`; None with a dataset.
            batch_size: int, how many examples to run at a time; a last batch of fewer counts by its
                size, so that the result is that of one batch of all. Default None: 1,000.

        Returns:
            `Evaluation`, a tuple ``(loss, accuracy)``; accuracy is nan if the solver's metrics have
            none.

        Raises:
            ValueError: as in `fit`.
        """
        _check_alone(x, y)
        if isinstance(x, tf.data.Dataset):
            _, joined_as = self._open_dataset(x)
            logs = self._evaluate_groups(joined_as(x, 1)())
        else:
            arrays = self.prepare(x, y)
            batch_size = check_batch_size(EVALUATION_BATCH_SIZE if batch_size is None else batch_size)
            logs = self._evaluate(arrays, min(batch_size, len(arrays.y)))
        return Evaluation(logs["loss"], logs.get("accuracy", float("nan")))

    def fit(
        self,
        x,
        y=None,
        *,
        epochs=1,
        batch_size=32,
        validation_data=None,
        shuffle=True,
        seed=0,
        callbacks=(),
        initial_epoch=0,
        verbose=0,
        checkpoint_dir=None,
    ):
        """Train for some epochs.

        Arrays stay in memory as tensors and each epoch over them is one compiled program. A dataset is
        read as it comes, checked and fetched ahead, and memory stays flat; each step is a compiled
        program, and many of them are one call.

        Args:
            x: array ``[N, ...]``; or `tfbn.data.Data` or `Stream`, of which the training split is trained
                on and the validation split validated on; or a finite `tf.data.Dataset` of batches
                ``(x, y)``.
            y: labels ``[N]``, or one-hot ``[N, classes]``; None for data and datasets.
            epochs: int, the number of the last epoch. Default 1.
            batch_size: int, examples a step; a dataset has its own. Default 32. A last batch of fewer is
                trained on as well.
            validation_data: ``(x, y)`` or a dataset, evaluated after each epoch. Default None.
            shuffle: bool, whether each epoch takes the examples in a new order; not those of a dataset,
                which comes as it is. Default True.
            seed: int, determines the orders. Default 0.
            callbacks: Keras callbacks. They are called at the beginning and end of training and of
                each epoch, with Keras' names (loss, accuracy, val_loss, val_accuracy); never at a
                batch.
            initial_epoch: int, epochs already done. Default 0.
            verbose: int, 0 for silence (default), 1 or 2 for Keras' line an epoch.
            checkpoint_dir: path of a folder for the state of the training. A training that finds its own
                there goes on after its last epoch, to the weights that it would have had, to the last
                bit, whatever the model's weights are now; more `epochs` than before train on, unless it had
                ended early. Its own has
                the same architecture, data and settings; of a dataset its form and name are compared.
                The states of callbacks and the order of a dataset that shuffles itself are not kept.
                Default None: none.

        Returns:
            `tfbn.history.History`, a record an epoch: epoch, loss and accuracy averaged over the epoch's
            steps, val_loss and val_accuracy after it, seconds (of training; those of the first epoch
            include compiling). It ends early at a loss that is no number and at Ctrl-C, with a warning.

        Raises:
            ValueError: shapes that do not fit; labels outside the classes; NaN or infinity in `x`; a
                batch size below 1 or over the data; a `checkpoint_dir` of another training.
        """
        _check_alone(x, y)
        if isinstance(x, Data | Stream) and not (y is validation_data is None):
            raise ValueError(
                f"`y` and `validation_data` come from the data itself when `x` is {type(x).__name__}. "
                "Leave them out, or pass arrays."
            )
        if isinstance(x, Stream):
            validation_data = batched(x.validation, EVALUATION_BATCH_SIZE)
        if isinstance(x, Data):
            x, y, validation_data = *x.train, tuple(x.validation)
        if isinstance(epochs, bool) or not isinstance(epochs, (int, np.integer)) or epochs < 1:
            raise ValueError(f"`epochs` must be an integer, 1 or more. Received: epochs={epochs!r}.")
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"`seed` must be an integer, 0 or more. Received: seed={seed!r}.")
        callbacks = _epoch_callbacks(callbacks)
        train, steps, data = self._training(x, y, batch_size, shuffle, seed)
        validate, validated = self._validation(validation_data)
        history = History(
            about=self.about(
                batch_size=None if isinstance(x, tf.data.Dataset) else int(batch_size), seed=int(seed)
            )
        )
        # Keras' own list: it resolves logs, sets the model and its params, and adds the progress line.
        callbacks = keras.callbacks.CallbackList(
            callbacks,
            add_history=False,
            add_progbar=bool(verbose),
            model=self.model,
            verbose=verbose,
            epochs=epochs,
            steps=steps,
        )
        about = {
            **self._begun,
            "batch_size": history.about["batch_size"],
            "seed": history.about["seed"],
            "network": digest([], describe_network(self.model)),
            "shuffle": shuffle,
            "loss": describe_loss(self.model.loss),
            "metrics": self.model.metrics_names,
            "data": data,
            "validation_data": validated,
        }
        check_workers_agree(about, self.strategy)
        save = None
        with contextlib.ExitStack() as held:
            if checkpoint_dir is not None:
                about = {**history.about, **about}
                strategies.broadcast_from_chief(
                    self.strategy, lambda: open_folder(checkpoint_dir, about, held)
                )
                initial_epoch, save = self._take_up(checkpoint_dir, history, initial_epoch, epochs)
            self.model.stop_training = False
            callbacks.on_train_begin()
            try:
                for epoch in range(initial_epoch + 1, epochs + 1):
                    callbacks.on_epoch_begin(epoch - 1)
                    start = time.perf_counter()
                    logs = train(epoch)
                    seconds = time.perf_counter() - start
                    logs.update(validate())
                    callbacks.on_epoch_end(epoch - 1, logs)
                    history.records.append({"epoch": epoch, **logs, "seconds": seconds})
                    stopped = self.model.stop_training or not np.isfinite(logs["loss"])
                    if save is not None:
                        save(stopped)
                    if not np.isfinite(logs["loss"]):
                        warnings.warn(
                            f"The loss of epoch {epoch} is {logs['loss']}: training ends there. A lower "
                            "learning rate may help.",
                            stacklevel=2,
                        )
                    if stopped:
                        break
            except KeyboardInterrupt:
                warnings.warn(f"Interrupted after {len(history.records)} epochs.", stacklevel=2)
        self.finish()
        callbacks.on_train_end()
        history.about["jit"] = self.jit  # XLA may have failed in between.
        return history

    def _take_up(self, folder, history, initial_epoch, epochs):
        """Go on from the checkpoints in `folder`, if there are any: epochs done, and what saves more."""
        states = Checkpoints([*self.model.variables, *self.model.optimizer.variables], self.strategy)

        def check(record):
            done = record["records"][-1]["epoch"]
            if done > epochs:
                raise ValueError(
                    f"{folder} holds a training of {done} epochs. Ask for as many or more. Received: "
                    f"epochs={epochs}."
                )
            return True

        known = states.restore(folder, check)
        if known is not None:
            history.records = known["records"]
            done = history.records[-1]["epoch"]
            initial_epoch = epochs if known["stopped"] else done

        def save(stopped):
            if stopped or history.records[-1]["epoch"] == epochs or states.due():
                states.save(folder, {"records": history.records, "stopped": stopped})

        return initial_epoch, save

    def _training(self, x, y, batch_size, shuffle, seed):
        """How `fit` trains on `x`: a function of an epoch, its steps if known, and what the data are."""
        if isinstance(x, tf.data.Dataset):
            steps_a_call, joined_as = self._open_dataset(x)
            read = joined_as(x, steps_a_call)
            return lambda epoch: self._train_groups(read(), steps_a_call), None, _form(x)
        if isinstance(x, Stream):
            batch_size = check_batch_size(batch_size)
            in_order = batched(x.train, batch_size)
            steps_a_call, joined_as = self._open_dataset(in_order)

            def train_stream(epoch):
                batches = batched(x.train, batch_size, seed, epoch) if shuffle else in_order
                return self._train_groups(joined_as(batches, steps_a_call)(), steps_a_call)

            return train_stream, None, f"{x.name}, {x.source}: {_form(x.train)}"
        arrays = self.prepare(x, y)
        examples = len(arrays.y)
        batch_size = check_batch_size(batch_size, examples)

        def train(epoch):
            order = batch_order(examples, seed, epoch) if shuffle else np.arange(examples)
            return self.train_epoch(arrays, order, batch_size)

        return train, -(-examples // batch_size), digest(arrays)

    def about(self, **more):
        """What a result should say of how it came about, as a dict."""
        return {
            "device": describe_device(self.device),
            "strategy": strategies.describe_strategy(self.strategy),
            "jit": self.jit,
            "precision": (self.model.layers or [self.model])[-1].dtype_policy.name,
            "optimizer": describe_optimizer(self.model.optimizer),
            "versions": versions(),
            **more,
        }

    def restart(self, fresh, learning_rate=None):
        """Begin anew from the weights of `fresh`, another build of the same model.

        Nothing is compiled again: the values are assigned to the variables that there are.

        Args:
            fresh: `keras.Model`.
            learning_rate: float. Default None: the one that the solver began with.
        """
        if self._input_shape is not None:
            self._build(fresh, self._input_shape)
        for variable, value in zip(self.model.variables, fresh.variables, strict=True):
            variable.assign(value)
        if self._initial_optimizer_state is not None:
            optimizer = self.model.optimizer
            for variable, value in zip(optimizer.variables, self._initial_optimizer_state, strict=True):
                variable.assign(value)
        if learning_rate is not None:
            self.model.optimizer.learning_rate = learning_rate

    def prepare(self, x, y=None):
        """Check arrays against the model and move them to the device.

        Args:
            x, y: arrays as in `train`; or `Arrays` that a solver on this device prepared.

        Returns:
            `Arrays`, which `train`, `evaluate`, `fit` and other solvers take in place of `x` and `y`
            without checking or copying them again.

        Raises:
            ValueError: as in `fit`.
        """
        given = isinstance(x, Arrays)
        shape = tuple(x.x.shape) if given else np.shape(x)
        if getattr(self.model, "inputs", None):
            expected = self.model.input_shape
            if len(shape) != len(expected) or any(
                want not in (None, got) for got, want in zip(shape, expected, strict=True)
            ):
                raise ValueError(
                    f"x must have the shape {expected} that the model takes. Received: {shape}."
                    + (" Batch the examples: dataset.batch(32), say." if shape == expected[1:] else "")
                )
        self._build(self.model, shape)
        classes = self._classes if self._labels_are_classes else None
        if classes == 1:
            raise ValueError(
                "The model has one output, and the cross-entropy over one class is always 0. Give the "
                "solver a `loss`, such as 'mse' or keras.losses.BinaryCrossentropy(from_logits=True)."
            )
        if given:
            arrays = x
            if classes is not None:
                as_classes(arrays.y.numpy(), classes)
        else:
            x, y = check_examples(x, y, classes)
            with self._steps.place():
                arrays = Arrays(tf.constant(x), tf.constant(y))
        if self._initial_optimizer_state is None:
            if self.strategy is not None:
                pair = arrays.y, self._output
                strategies.check_loss(
                    self._loss, *(tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in pair)
                )
            self._steps.create_variables(*arrays)
            self._initial_optimizer_state = [v.numpy() for v in self.model.optimizer.variables]
        return arrays

    def train_epoch(self, arrays, order, batch_size):
        """One epoch as one compiled program.

        Args:
            arrays: `Arrays`, as `prepare` gives them.
            order: ints ``[M]``, the rows to train on, in this order.
            batch_size: int, rows a step; a rest of fewer makes a last step.

        Returns:
            dict, the loss and the metrics averaged over the epoch.
        """
        self._steps.reset_metrics()
        self._steps.train_epoch(*arrays, order, batch_size)
        return self._steps.metrics()

    def finish(self):
        """What Keras does when training ends: an optimizer with ``use_ema`` puts its averages in place."""
        with self._steps.place():
            self.model.optimizer.finalize_variable_values(self.model.trainable_variables)

    def _build(self, model, shape):
        """Create the weights of a model that waits for its first input to know its shape."""
        if self._classes is None or not model.built:
            self._input_shape = (None, *shape[1:])
            with self._steps.place():
                # A symbolic call: nothing is computed.
                self._output = model(keras.KerasTensor(self._input_shape))
            self._classes = self._output.shape[-1]

    def _evaluate(self, arrays, batch_size=EVALUATION_BATCH_SIZE):
        self._steps.reset_metrics()
        self._steps.evaluate(*arrays, batch_size)
        return self._steps.metrics()

    def _open_dataset(self, dataset):
        """Create the variables by a dataset's first batch; how many make a call, and how to join them."""
        if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("The dataset never ends. Cut it into epochs with `take(steps)`.")
        given = dataset.element_spec
        kinds = [type(spec) for spec in given] if isinstance(given, tuple) else []
        if len(kinds) != 2 or not set(kinds) <= {tf.TensorSpec, tf.RaggedTensorSpec}:
            raise ValueError(
                f"The dataset must give pairs (x, y) of batches, as tensors. Received: {given}."
            )
        with contextlib.closing(read_batches(dataset.take(1))) as first:
            for x, y in first:
                arrays = self.prepare(x, y)
                shapes = [array.shape[1:] for array in arrays]
                size = sum(array.shape.num_elements() * array.dtype.size for array in arrays)
                known = int(dataset.cardinality())
                most = min(STEPS_A_CALL, known) if known > 0 else STEPS_A_CALL
                steps = max(1, min(most, BYTES_A_CALL // (size or 1)))
                classes = self._classes if self._labels_are_classes else None
                return steps, functools.partial(grouped_batches, classes=classes, shapes=shapes)
        raise ValueError("The dataset is empty. Give it one batch or more.")

    def _train_groups(self, groups, steps):
        """One pass over a dataset's groups of so many steps, a call each; others are a call a step."""
        self._steps.reset_metrics()
        with contextlib.closing(groups):
            for x, y, sizes in groups:
                sizes = sizes.numpy()
                if len(sizes) == steps and (sizes == sizes[0]).all():
                    self._steps.train_epoch(x, y, range(len(x)), int(sizes[0]))
                else:
                    for batch in zip(tf.split(x, sizes), tf.split(y, sizes), strict=True):
                        self._steps.train(*batch)
        return self._steps.metrics()

    def _evaluate_groups(self, groups):
        """The same for inference, of groups of one batch."""
        self._steps.reset_metrics()
        with contextlib.closing(groups):
            for x, y, sizes in groups:
                self._steps.evaluate(x, y, int(sizes[0]))
        return self._steps.metrics()

    def _validation(self, data):
        """A function that validates and returns Keras' names, and what the data are."""
        if data is None:
            return dict, None
        if isinstance(data, tf.data.Dataset):
            form = _form(data)
            _, joined_as = self._open_dataset(data)
            read = joined_as(data, 1)

            def run():
                return self._evaluate_groups(read())
        else:
            if not isinstance(data, (tuple, list)) or len(data) != 2:
                raise ValueError("`validation_data` must be a pair (x, y) or a tf.data.Dataset.")
            arrays = self.prepare(*data)
            form = digest(arrays)

            def run():
                return self._evaluate(arrays)

        return lambda: {f"val_{name}": value for name, value in run().items()}, form


def _check_alone(x, y):
    if isinstance(x, tf.data.Dataset) and y is not None:
        raise ValueError("`y` comes from the dataset itself, which gives pairs (x, y). Leave it out.")


def _form(dataset):
    """What can be told of a dataset without reading it."""
    return f"{dataset.element_spec}, {int(dataset.cardinality())} of them"


def _cross_entropy(model):
    """Return the default loss: of logits or, where the model ends in a softmax, of probabilities."""
    logits = final_activation(model) != "softmax"
    return keras.losses.SparseCategoricalCrossentropy(from_logits=logits)


def _epoch_callbacks(callbacks):
    """The callbacks as a list; says so where one waits for batches, which are not announced."""
    callbacks = list(callbacks or ()) if isinstance(callbacks, (list, tuple, type(None))) else [callbacks]
    hooks = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
    for callback in callbacks:
        # Keras' own classes have reasons of their own to look at batches; a LambdaCallback keeps the
        # user's functions on the instance.
        users = not type(callback).__module__.startswith("keras.")
        waits = any(
            hook in vars(callback)
            or (users and getattr(type(callback), hook) is not getattr(keras.callbacks.Callback, hook))
            for hook in hooks
        )
        if waits or getattr(callback, "save_freq", "epoch") != "epoch":
            warnings.warn(
                f"{type(callback).__name__} waits for batches, but an epoch here is one compiled "
                "program: callbacks are called at epochs only.",
                stacklevel=3,
            )
    return callbacks
