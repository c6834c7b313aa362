"""Training by `tf.distribute`: a batch split over replicas, each a device of one machine or of several.

A step is that of one device with the whole batch: replica `r` of `n` takes its share of the `B` rows,

    rows  = batch[r * B // n : (r + 1) * B // n]
    share = len(rows) / B

and the gradient of ``sum(share * mean(losses of rows))`` is that of the mean over the batch, whether or not
the shares are even. Keras takes each share for ``1 / n``.
"""

from __future__ import annotations

import contextlib
import json

import keras
import numpy as np
import tensorflow as tf

from tfbn.foundation.errors import first_line

STRATEGIES = {
    "mirrored": tf.distribute.MirroredStrategy,
    "multiworker": tf.distribute.MultiWorkerMirroredStrategy,
}
# What TensorFlow raises on a worker when another is gone: at once, or when its heartbeats are missed.
GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)


EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'
)


def make_strategy(name):
    """A strategy by its name: all GPUs of this machine, or all workers of TF_CONFIG.

    It has to be made before TensorFlow has started its devices, that is, first. That of several workers
    waits until all have come.

    Args:
        name: "mirrored", "multiworker", or "none" for None.

    Raises:
        ValueError: it cannot be started, because the address in TF_CONFIG is taken, say.
    """
    if name == "none":
        return None
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    try:
        return STRATEGIES[name]()
    except (tf.errors.OpError, RuntimeError) as error:
        reason = first_line(error)
        raise ValueError(f"The {name} strategy cannot be started: {reason}") from None


def check_tf_config(text):
    """Raise if TF_CONFIG does not name the workers and this one among them.

    Raises:
        ValueError: as said, with an example.
    """
    problem = "is not set" if not text else None
    if text:
        try:
            config = json.loads(text)
            addresses, task = config["cluster"], config["task"]
            known = addresses[task["type"]]
            if task["type"] not in ("chief", "worker"):
                problem = f"has the task type {task['type']!r}, which is neither worker nor chief"
            elif not isinstance(known, list) or not all(":" in address for address in known):
                problem = "must list its workers as host:port"
            elif task["index"] not in range(len(known)):
                problem = f"has the task index {task['index']!r}, but {len(known)} of that type"
        except (ValueError, TypeError, LookupError) as error:
            problem = f"cannot be understood ({type(error).__name__}: {error})"
    if problem:
        raise ValueError(
            f"TF_CONFIG {problem}. On each machine set it to all addresses, the same everywhere, and to "
            f"that machine's own index, such as: export TF_CONFIG='{EXAMPLE}'"
        )


def check_strategy(strategy, device="auto", jit="auto"):
    """Raise if `strategy` is none that trains here, or what else was given does not go with it.

    Raises:
        TypeError, ValueError: as said.
    """
    if not isinstance(strategy, tuple(STRATEGIES.values())):
        raise TypeError(
            "`strategy` must be a tf.distribute.MirroredStrategy or MultiWorkerMirroredStrategy, or None. "
            f"Received: {strategy!r}."
        )
    if device != "auto":
        raise ValueError(
            f"`device` comes from the strategy: leave it 'auto'. Received: device={device!r}. "
            "MirroredStrategy takes the names of its devices."
        )
    if jit is True:
        raise ValueError("`jit` must be 'auto' or False under a strategy, which is not compiled by XLA.")


def check_trainable(strategy, model, optimizer, loss):
    """Raise for what would train, but not as one device does.

    Args:
        model: `keras.Model`, whose variables, and the optimizer's, must be the strategy's.
        optimizer: `keras.optimizers.Optimizer`.
        loss: a Keras loss, its name, or None.

    Raises:
        ValueError: as said.
    """
    for what, owner in (("model", model), ("optimizer", optimizer)):
        created = strategy.extended.variable_created_in_scope
        if not all(created(variable.value) for variable in owner.variables):
            raise ValueError(
                f"The variables of the {what} are not the strategy's. Create the {what} within "
                "`with strategy.scope():`."
            )
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    refused = ("clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps")
    for name in (*refused, "ema_overwrite_frequency"):
        if getattr(optimizer, name, None) is not None:
            raise ValueError(
                f"The optimizer's `{name}` would be applied by each replica to its own part, which is not "
                "what one device does. Leave it out under a strategy."
            )
    reduction = getattr(loss, "reduction", "mean")
    if reduction not in ("sum_over_batch_size", "mean", "mean_with_sample_weight"):
        raise ValueError(
            "`loss` must be a mean over the batch under a strategy. Received one with "
            f"reduction={reduction!r}."
        )


def check_loss(loss, y, y_pred):
    """Raise if a loss gives no value for each example, of which a replica could take its share.

    Args:
        loss: a Keras loss, or a function of `y` and `y_pred`; its name, or None for Keras' own.
        y, y_pred: `tf.TensorSpec`, of a batch.

    Raises:
        ValueError: as said.

    >>> check_loss("mse", tf.TensorSpec([None, 2]), tf.TensorSpec([None, 2]))
    """
    if isinstance(loss, str | None):
        return
    call = tf.function(getattr(loss, "call", loss), autograph=False).get_concrete_function
    if call(y, y_pred).output_shapes.rank == 0:
        raise ValueError(
            "`loss` must give a value for each example under a strategy, of which replicas can take their "
            "shares. Received one that gives a single value for all: let it reduce the last axis alone."
        )


def describe_strategy(strategy):
    """What a result should say of a strategy, as a dict; None for None."""
    if strategy is None:
        return None
    replicas = strategy.num_replicas_in_sync
    names = [name for name, kind in STRATEGIES.items() if isinstance(strategy, kind)]
    return {"name": names[0], "replicas": replicas, "workers": workers(strategy)}


def device_of(strategy):
    """The first device of this worker, such as "gpu:0"."""
    device = tf.DeviceSpec.from_string(strategy.extended.worker_devices[0])
    return f"{device.device_type.lower()}:{device.device_index}"


def workers(strategy):
    """How many processes train together."""
    if strategy is None:
        return 1
    return strategy.num_replicas_in_sync // len(strategy.extended.worker_devices)


def is_chief(strategy):
    """Whether this process is the one that writes: the only one, or the first of several workers."""
    return workers(strategy) == 1 or strategy.extended.should_checkpoint


def copies(strategy, arrays):
    """On each replica's device a copy of `arrays`, a tuple of tensors, from which it takes its rows."""
    devices = strategy.extended.worker_devices

    def copy(context, array):
        with tf.device(devices[context.replica_id_in_sync_group % len(devices)]):
            return tf.identity(array)

    spread = strategy.experimental_distribute_values_from_function
    return [spread(lambda context, array=array: copy(context, array)) for array in arrays]


@tf.autograph.experimental.do_not_convert
def train_step(strategy, model, x, y, rows):
    """One step of `model` on the `rows` of `x` and `y`, which are as `copies` gives them.

    It is Keras' own train_step, but for the share in the gradient.
    """

    def step(x, y):
        x, y, share = _shard(x, y, rows)
        replicas = strategy.num_replicas_in_sync
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            mean = model.compute_loss(x, y, y_pred, training=True) * replicas  # Keras divides by them.
            loss = model.optimizer.scale_loss(mean * tf.cast(share, mean.dtype))
        weights = model.trainable_weights
        gradients = tape.gradient(loss, weights)
        if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
            gradients = _all_or_none(gradients)
        model.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        model.metrics[0].update_state(mean, sample_weight=tf.shape(y)[0])
        model.compute_metrics(x, y, y_pred)

    strategy.run(step, (x, y))


def _all_or_none(gradients):
    """NaN on each replica if they are finite on one alone, where Keras would apply what the first has."""
    known = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]
    poison = tf.add_n([tf.reduce_sum(0 * gradient) for gradient in known])  # 0, or NaN.
    poison = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, poison)
    return [None if gradient is None else gradient + poison for gradient in gradients]


@tf.autograph.experimental.do_not_convert
def evaluation_step(strategy, model, x, y, rows):
    """Keras' own test_step on the `rows`; its metrics weigh each replica by its rows."""

    def step(x, y):
        model.test_step(_shard(x, y, rows)[:2])

    strategy.run(step, (x, y))


def _shard(x, y, rows):
    """This replica's rows, and their share in the batch."""
    context = tf.distribute.get_replica_context()
    replica, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
    size = tf.shape(rows)[0]
    own = rows[replica * size // replicas : (replica + 1) * size // replicas]
    # Of no length that is known now: Keras' losses do not reduce a batch that is known to be empty.
    own = tf.compat.v1.placeholder_with_default(own, [None])
    return tf.gather(x, own), tf.gather(y, own), tf.shape(own)[0] / size


def broadcast_from_chief(strategy, make):
    """What `make` returned on the chief, where alone it is called, or as a ValueError what it raised.

    Args:
        strategy: of several workers, all of which call this at once; or any other, or None.
        make: function that takes nothing and returns plain data.
    """
    if workers(strategy) == 1:
        return make()
    text = ""
    if is_chief(strategy):
        try:
            text = json.dumps({"value": make()})
        except (ValueError, OSError) as error:
            text = json.dumps({"error": str(error)})
    found = json.loads(broadcast_bytes(strategy, text.encode()))
    if "error" in found:
        raise ValueError(found["error"])
    return found["value"]


def broadcast_bytes(strategy, content):
    """The chief's `content` on all workers."""
    with scope(strategy):  # A variable starts on every worker from the chief's value.
        size = int(tf.Variable(len(content) if is_chief(strategy) else 0, dtype=tf.int64).numpy())
        words = np.zeros(-(-size // 4), "int32")
        if is_chief(strategy):
            words.view("uint8")[:size] = np.frombuffer(content, "uint8")
        return tf.Variable(words).numpy().tobytes()[:size]


@contextlib.contextmanager
def scope(strategy):
    """The strategy's scope, which says so in one line where another worker is gone.

    Raises:
        ConnectionError: one is.
    """
    try:
        with strategy.scope():
            yield
    except GONE as error:
        if workers(strategy) == 1:
            raise
        lines = [line for line in str(error).splitlines() if "/job:" in line or "ollective" in line]
        said = (lines or [str(error)])[0].rpartition("}} ")[2]
        raise ConnectionError(
            "Another worker is gone, and training cannot go on without it. Start all of them again, with "
            f"the checkpoints if there are any. TensorFlow says: {said.strip()[:200]}"
        ) from None
