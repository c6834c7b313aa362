"""`compare`: several networks, the same batches, several seeds."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from tfbn.comparison.arms import Arm
from tfbn.comparison.placement import Placement
from tfbn.comparison.results import Comparison
from tfbn.comparison.session import Session
from tfbn.comparison.settings import Settings
from tfbn.data.arrays import Data


def compare(
    arms: Mapping[str, Arm | Callable[[], keras.Model]],
    data: Data,
    *,
    epochs: int = 10,
    batch_size: int = 32,
    steps_per_epoch: int | None = None,
    seeds: int | Iterable[int] = 6,
    optimizer: str | keras.optimizers.Optimizer = "adam",
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule | None = None,
    loss: str | Callable | None = None,
    jit: bool | str = "auto",
    device: str = "auto",
    precision: str | None = None,
    vary: Mapping[str, Any] | None = None,
    observe: Sequence[str] = (),
    reach: float | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    command: str | None = None,
    checkpoint_dir: str | os.PathLike | None = None,
    strategy: Any = None,
) -> Comparison:
    """Train several networks side by side: the same batches in the same order, over several seeds.

    For each seed, every arm is built anew under `keras.utils.set_random_seed(seed)` and takes the same
    batches. Arms made by `Model` thus start from the same kernels. Arms of Keras' layers do so up to the
    first layer that draws a random number in one arm alone, such as a Dropout. From there on, give the
    initializers seeds of their own to pair the arms. The last incomplete batch of a pass is dropped; the
    next pass draws a new order.

    A network is compiled once. Further seeds assign their values to the same variables, so a seed can
    change variables only, not constants or arguments of a layer. Arms of one `Arm.program`, which differ
    in initial values or learning rate alone, share a compiled network, too. On a CPU the programs train at
    the same time, each on one core.

    Args:
        arms: dict of names to functions without arguments that return a new `keras.Model`, or to `Arm`,
            which has further fields. A name becomes a file's: letters, digits and any of _ . + = -.
        data: with its ``classes=0`` and a `loss` such as "mse", a regression.
        epochs: after how many epochs each run ends. Default 10.
        batch_size: examples a step. Default 32.
        steps_per_epoch: after how many steps to evaluate and record. Default None: a pass over the data.
        seeds: a number, for the seeds 0, 1, ..., or the seeds themselves. Default 6, the fewest that can
            separate an effect from noise.
        optimizer, learning_rate, loss, jit, device, precision: as in `Solver`. Each program gets an
            optimizer of its own, a copy by `get_config` of one that is passed.
        vary: dict that names what the arms' values are, for the figures: setting (its name), label (of the
            axis), log (whether the axis is logarithmic). Default None.
        observe: what to record of the networks' insides before the first and after each epoch, in
            inference over the first 1,000 validation examples: "outputs", "percentiles", "histograms"
            (see `tfbn.comparison.observers`). Default: nothing.
        reach: the validation accuracy (or loss) for "epochs to reach". Default None: one that all runs
            reached.
        on_epoch: called with each record when it is made. Default None.
        command: the command to note in the result. Default None.
        checkpoint_dir: folder for the state of the training. A comparison that finds its own state there
            resumes, and its result is the same to the last bit. A checkpoint is written after each epoch,
            but never for more than 10 % of the run time. State that a custom layer keeps outside of
            Keras' variables is not saved, and under a strategy the first replica's values stand for all.
            Default None: no checkpoints.
        strategy: as in `Solver`: each batch is split over its replicas, and arms are built in its scope.
            Several workers have to make the same call. All return the same records and models, which are
            ordinary ones; the chief alone writes checkpoints. Default None: one device.

    Returns:
        `Comparison`, with `table`, `verdict`, `plot`, `save` and the trained `models`. After Ctrl-C it
        holds the finished epochs, with a warning. A loss that is not finite ends that arm's seed, which
        then counts as diverged and in no mean.

    Raises:
        ValueError, TypeError: an argument is outside what is allowed, or `checkpoint_dir` holds the state
            of another comparison; before anything is trained.
        ConnectionError: another worker is gone.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=[200, 4])
    >>> split = (x, x[:, 0] > 0)
    >>> data = Data(train=split, validation=split, test=split, name="half-plane")
    >>> def build(*layers):
    ...     return keras.Sequential([keras.Input([4]), *layers, keras.layers.Dense(2)])
    >>> arms = {"hidden": lambda: build(keras.layers.Dense(8, "relu")), "linear": build}
    >>> result = compare(arms, data, epochs=2, seeds=2)
    >>> len(result.records), len(result.test)
    (8, 4)
    """
    placement = Placement.find(device, strategy, jit)
    settings = Settings(
        arms=arms,
        data=data,
        epochs=epochs,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        seeds=seeds,
        optimizer=optimizer,
        learning_rate=learning_rate,
        loss=loss,
        jit=jit,
        precision=precision,
        vary=vary,
        observe=observe,
        reach=reach,
    )
    return Session(settings, placement, checkpoint_dir, on_epoch, command).run()
