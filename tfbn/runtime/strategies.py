"""Training over replicas by `tf.distribute`: strategies, their limits, and what the chief alone does."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbn.foundation.errors import class_and_line, first_line

STRATEGIES = {
    "mirrored": tf.distribute.MirroredStrategy,
    "multiworker": tf.distribute.MultiWorkerMirroredStrategy,
}
# What TensorFlow raises on a worker when another is gone: at once, or when its heartbeats are missed.
WORKER_GONE_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)
# Options of an optimizer that act on the gradients that the optimizer sees.
PER_REPLICA_OPTIONS = (
    *("clipnorm", "clipvalue", "global_clipnorm"),
    *("gradient_accumulation_steps", "ema_overwrite_frequency"),
)
TF_CONFIG_EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'
)


def make_strategy(name: str) -> tf.distribute.Strategy | None:
    """Start "mirrored", over all GPUs of this machine, or "multiworker", over all workers of TF_CONFIG.

    Call this first, before TensorFlow starts its devices. "multiworker" waits until all workers have come.
    "none" gives None. ValueError is raised for example if the address in TF_CONFIG is taken.
    """
    if name == "none":
        return None
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    try:
        return STRATEGIES[name]()
    except (tf.errors.OpError, RuntimeError) as error:
        raise ValueError(f"The {name} strategy cannot be started: {first_line(error)}") from None


def check_tf_config(text: str | None) -> None:
    """Raise ValueError, with an example, if TF_CONFIG does not name the workers and this one among them."""
    problem = _tf_config_problem(text) if text else "is not set"
    if problem is not None:
        raise ValueError(
            f"TF_CONFIG {problem}. On each machine set it to all addresses, the same everywhere, and to "
            f"that machine's own index, such as: export TF_CONFIG='{TF_CONFIG_EXAMPLE}'"
        )


def _tf_config_problem(text: str) -> str | None:
    try:
        config = json.loads(text)
        task = config["task"]
        addresses = config["cluster"][task["type"]]
        if task["type"] not in ("chief", "worker"):
            return f"has the task type {task['type']!r}, which is neither worker nor chief"
        if not isinstance(addresses, list) or not all(":" in address for address in addresses):
            return "must list its workers as host:port"
        if task["index"] not in range(len(addresses)):
            return f"has the task index {task['index']!r}, but {len(addresses)} of that type"
    except (ValueError, TypeError, LookupError) as error:
        return f"cannot be understood ({class_and_line(error)})"
    return None


def check_strategy(strategy: Any, device: str = "auto", jit: bool | str = "auto") -> None:
    """Raise TypeError for strategies that are not supported, ValueError for options that they exclude."""
    if not isinstance(strategy, tuple(STRATEGIES.values())):
        raise TypeError(
            "`strategy` must be a tf.distribute.MirroredStrategy or MultiWorkerMirroredStrategy, or None. "
            f"Received: {strategy!r}."
        )
    if device != "auto":
        raise ValueError(
            f"`device` comes from the strategy: leave it 'auto'. Received: device={device!r}. "
            "Pass device names to MirroredStrategy instead."
        )
    if jit is True:
        raise ValueError("`jit` must be 'auto' or False under a strategy, which is not compiled by XLA.")


def check_trainable(
    strategy: tf.distribute.Strategy | None,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    loss: Any,
) -> None:
    """Raise ValueError for what would train under the strategy, but not as one device does."""
    if strategy is None:
        if any(isinstance(variable.value, tf.distribute.DistributedValues) for variable in model.variables):
            raise ValueError(
                "The model was created in the scope of a strategy. Give that as `strategy`, or create the "
                "model outside of it."
            )
        return
    for what, owner in (("model", model), ("optimizer", optimizer)):
        created = strategy.extended.variable_created_in_scope
        if not all(created(variable.value) for variable in owner.variables):
            raise ValueError(
                f"The variables of the {what} are not the strategy's. Create the {what} within "
                "`with strategy.scope():`."
            )
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    for name in PER_REPLICA_OPTIONS:
        if getattr(optimizer, name, None) is not None:
            raise ValueError(
                f"The optimizer's `{name}` would be applied by each replica to its own part, other than on "
                "one device. Leave it out under a strategy."
            )
    reduction = getattr(loss, "reduction", "mean")
    if reduction not in ("sum_over_batch_size", "mean", "mean_with_sample_weight"):
        raise ValueError(
            f"`loss` must be a mean over the batch under a strategy. Received: reduction={reduction!r}."
        )


def check_loss(loss: Any, y: tf.TensorSpec, y_pred: tf.TensorSpec) -> None:
    """Raise ValueError unless a loss gives a value for each example, of which replicas take their shares.

    `y` and `y_pred` are the specs of a batch. Losses that Keras knows by name are not checked.

    >>> check_loss("mse", tf.TensorSpec([None, 2]), tf.TensorSpec([None, 2]))
    """
    if isinstance(loss, str | None):
        return
    call = tf.function(getattr(loss, "call", loss), autograph=False).get_concrete_function
    if call(y, y_pred).output_shapes.rank == 0:
        raise ValueError(
            "`loss` must give a value for each example under a strategy, of which replicas can take their "
            "shares. Received: a loss with one value for all. Let it reduce the last axis alone."
        )


def describe_strategy(strategy: tf.distribute.Strategy | None) -> dict[str, Any] | None:
    """Return what a result records of a strategy; None without one."""
    if strategy is None:
        return None
    name = next(name for name, kind in STRATEGIES.items() if isinstance(strategy, kind))
    return {"name": name, "replicas": strategy.num_replicas_in_sync, "workers": workers(strategy)}


def device_of(strategy: tf.distribute.Strategy) -> str:
    """Return the first device of this worker, such as "gpu:0"."""
    device = tf.DeviceSpec.from_string(strategy.extended.worker_devices[0])
    return f"{device.device_type.lower()}:{device.device_index}"


def workers(strategy: tf.distribute.Strategy | None) -> int:
    """Return the number of processes that train together."""
    if strategy is None:
        return 1
    return strategy.num_replicas_in_sync // len(strategy.extended.worker_devices)


def is_chief(strategy: tf.distribute.Strategy | None) -> bool:
    """Return whether this process writes files: it is the only one, or the first of several workers."""
    return strategy is None or workers(strategy) == 1 or strategy.extended.should_checkpoint


def broadcast_from_chief(strategy: tf.distribute.Strategy | None, make: Callable[[], Any]) -> Any:
    """Call `make` on the chief alone, and return its plain data on all workers, which must call this, too.

    What `make` raises on the chief, all of them raise as a ValueError.
    """
    if workers(strategy) == 1:
        return make()
    text = ""
    if is_chief(strategy):
        try:
            text = json.dumps({"value": make()})
        except (ValueError, OSError) as error:
            text = json.dumps({"error": str(error) or first_line(error)})
    outcome = json.loads(broadcast_bytes(strategy, text.encode()))
    if "error" in outcome:
        raise ValueError(outcome["error"])
    return outcome["value"]


def broadcast_bytes(strategy: tf.distribute.Strategy, content: bytes) -> bytes:
    """Return the chief's `content` on all workers."""
    with scope(strategy):  # A variable starts on every worker from the chief's value.
        size = int(tf.Variable(len(content) if is_chief(strategy) else 0, dtype=tf.int64).numpy())
        words = np.zeros(-(-size // 4), "int32")
        if is_chief(strategy):
            words.view("uint8")[:size] = np.frombuffer(content, "uint8")
        return tf.Variable(words).numpy().tobytes()[:size]


@contextlib.contextmanager
def scope(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Enter the strategy's scope; raise ConnectionError, in one line, if another worker is gone.

    TensorFlow numbers the collectives of each strategy from one number, and confuses those of two
    strategies in a process where their shapes differ. That is a ValueError.
    """
    try:
        with strategy.scope():
            yield
    except tf.errors.InvalidArgumentError as error:
        if "in the collective instance" not in str(error):
            raise
        raise ValueError(
            "TensorFlow confuses the sums over replicas of two strategies in one process. Create one "
            "strategy for all models, or give later ones "
            "cross_device_ops=tf.distribute.ReductionToOneDevice()."
        ) from None
    except WORKER_GONE_ERRORS as error:
        if workers(strategy) == 1:
            raise
        lines = [line for line in str(error).splitlines() if "/job:" in line or "ollective" in line]
        raise ConnectionError(
            "Another worker is gone, and training cannot go on without it. Start all of them again, with "
            f"the checkpoints if there are any. TensorFlow says: {first_line(lines[0] if lines else error)}"
        ) from None
