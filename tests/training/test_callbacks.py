"""Callbacks see of `fit` what they see of Keras' fit, and a resumed training has their states."""

import base64
import collections
import json
import warnings

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

import tfbn
from tfbn.training.callbacks import Hooks
from tfbn.training.checkpoints import Checkpoints
from tfbn.training.feeds import ArrayFeed
from tfbn.training.loop import History

callbacks = keras.callbacks


def network(optimizer="sgd"):
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input([8]), keras.layers.Dense(6, "relu"), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.get(optimizer), loss, metrics=["accuracy"])
    return model


def solver_fit(model, x, y, **options):
    solver = tfbn.Solver(model, model.optimizer, jit=False)
    return solver.fit(x, y, **options)


def adversary(data):
    """Return validation data whose loss rises while the network learns."""
    return data.validation[0], 2 - data.validation[1]


ADDED = ("learning_rate", "added", "later")  # By callbacks; Keras' `on_train_end` does not get them.


class Trace(callbacks.Callback):
    """What was called, when, and with what logs."""

    def __init__(self):
        super().__init__()
        self.calls, self.values = [], []

    def see(self, event, logs):
        own = {name: value for name, value in (logs or {}).items() if name not in ADDED}
        self.calls.append((event, list(own), self.params))
        self.values.extend(own.values())

    def on_train_begin(self, logs=None):
        self.see("on_train_begin", logs)

    def on_train_end(self, logs=None):
        self.see("on_train_end", logs)

    def on_epoch_begin(self, epoch, logs=None):
        self.see(f"on_epoch_begin {epoch}", logs)

    def on_epoch_end(self, epoch, logs=None):
        self.see(f"on_epoch_end {epoch}", logs)

    def on_test_begin(self, logs=None):
        self.see("on_test_begin", logs)

    def on_test_end(self, logs=None):
        self.see("on_test_end", logs)


class Adder(callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["added"] = np.float32(epoch / 4)
        if epoch == 1:
            logs["later"] = tf.constant([1.0, 2.0])


class Stopper(callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


BUILDERS = {
    "added": lambda: [Adder(), callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)],
    "plateau": lambda: callbacks.ReduceLROnPlateau("val_loss", 0.5, patience=1, min_delta=0.01, cooldown=1),
    "ema": lambda: callbacks.SwapEMAWeights(),
    "ema_on_epoch": lambda: callbacks.SwapEMAWeights(swap_on_epoch=True),
    "early": lambda: callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
    "stop": lambda: Stopper(),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_fit_does_around_epochs_what_keras_does(blobs, build):
    results = []
    for fit in (keras.Model.fit, solver_fit):
        model, trace = network(keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.6)), Trace()
        # One batch, as Keras stops within an epoch.
        options = dict(epochs=5, batch_size=203, shuffle=False, callbacks=[build(), (trace,)], verbose=0)
        history = fit(model, *blobs.train, validation_data=adversary(blobs), **options)
        results.append((history.history, trace, model.get_weights(), model.history.history))
    (expected, their_trace, their_weights, _), (history, trace, weights, keras_history) = results
    assert history.pop("epoch") == [epoch + 1 for epoch in range(len(history.pop("seconds")))]
    assert history.keys() == expected.keys() == keras_history.keys()
    for name in history:
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-5, err_msg=name)
    assert trace.calls == their_trace.calls
    np.testing.assert_allclose(trace.values, their_trace.values, rtol=1e-5)
    for one, other in zip(weights, their_weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def scalars(folder):
    """Return the scalars in TensorBoard's files: where, name and step; and the value."""
    values = {}
    for path in folder.glob("*/events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    values[path.parent.name, value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    return values


def test_tensorboard_receives_the_scalars_that_keras_gives(blobs, tmp_path):
    written = []
    for name, fit in (("keras", keras.Model.fit), ("solver", solver_fit)):
        board = callbacks.TensorBoard(tmp_path / name)
        options = dict(epochs=2, shuffle=False, callbacks=[board], verbose=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            fit(network(), *blobs.train, validation_data=blobs.validation, **options)
        written.append(scalars(tmp_path / name))
    theirs, own = written
    assert ("validation", "evaluation_loss_vs_iterations", 7) in theirs
    assert own.keys() == theirs.keys()
    np.testing.assert_allclose([own[key] for key in theirs], list(theirs.values()), rtol=1e-5)


def test_swapped_averages_are_those_of_keras_on_two_replicas(blobs, two_replicas):
    def fit(strategy=None):
        model = network(keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.6))
        solver = tfbn.Solver(model, model.optimizer, jit=False, strategy=strategy)
        swap = callbacks.SwapEMAWeights(swap_on_epoch=True)
        return solver.fit(blobs, epochs=2, callbacks=swap)["val_loss"]

    with two_replicas.scope():
        replicated = fit(two_replicas)
    np.testing.assert_allclose(replicated, fit(), rtol=1e-5)


def test_interrupted_validation_swaps_weights_back(blobs, monkeypatch):
    def fit(hooks):
        model = network(keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.6))
        solver_fit(model, *blobs.train, validation_data=blobs.validation, epochs=1, callbacks=hooks)
        return model.get_weights()

    def interrupt(feed):
        raise KeyboardInterrupt

    averages = fit([])
    monkeypatch.setattr(ArrayFeed, "evaluate", interrupt)
    with pytest.warns(UserWarning, match="Interrupted after 0 epochs"):
        weights = fit([callbacks.SwapEMAWeights()])
    for one, other in zip(weights, averages, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_backup_is_restored_and_survives_an_interruption(blobs, tmp_path):
    def fit(epochs, hooks=(), **options):
        model = network()
        history = solver_fit(model, *blobs.train, epochs=epochs, callbacks=[*hooks], **options)
        return history, model.get_weights()

    def interrupt(epoch, logs):
        if epoch == 2:
            raise KeyboardInterrupt

    backup = callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.warns(UserWarning, match="Interrupted after 2 epochs"):
        fit(4, [backup, callbacks.LambdaCallback(on_epoch_begin=interrupt)])
    history, weights = fit(4, [backup])
    assert history["epoch"] == [3, 4]
    whole, expected = fit(4)
    assert history["loss"] == whole["loss"][2:]
    for one, other in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not (tmp_path / "backup").exists(), "as training has ended"


def test_checkpoint_goes_before_a_backup(blobs, tmp_path):
    """Weights and record are of one epoch, also where the backup is of another."""
    model = network()

    def fit(epochs, folder, delete=False):
        backup = callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=delete)
        options = dict(callbacks=[backup], checkpoint_dir=folder)
        history = solver_fit(model, *blobs.train, epochs=epochs, **options)
        return history["loss"]

    def fresh():
        nonlocal model
        model = network()
        return model

    first = fit(1, tmp_path / "state")
    fresh()
    assert fit(3, None)[0] != first[0], "the backup alone goes on after epoch 1"
    fresh()
    resumed = fit(3, tmp_path / "state")
    fresh()
    assert resumed == solver_fit(model, *blobs.train, epochs=3)["loss"]


class Killed(Exception):
    pass


class Kill(callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.at = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.at:
            raise Killed


class Own(callbacks.Callback):
    """A callback of the user's, whose attributes decide the learning rate."""

    def __init__(self, losses=None, step=0.9):
        super().__init__()
        self.losses, self.step, self.counts = losses, step, collections.Counter()
        self.by_epoch, self.last, self.ends, self.seen = {}, (), [np.inf, None], set()

    def on_train_begin(self, logs=None):
        self.model.optimizer.learning_rate = 0.5  # Not again where a training resumes.
        self.average = np.zeros(2)

    def on_epoch_end(self, epoch, logs=None):
        self.losses.append(logs["loss"])
        self.by_epoch[epoch] = self.last = (epoch, np.float32(logs["loss"]))
        self.seen.add(epoch)
        self.counts["epochs"] += 1
        self.step *= 0.9
        self.model.optimizer.learning_rate = self.step * (1 + len(self.seen) + self.counts["epochs"]) / 9
        self.average = 0.9 * self.average + logs["loss"]
        logs["average"] = self.average


def all_kinds(folder, losses):
    return [
        callbacks.EarlyStopping("val_loss", patience=4, min_delta=2, restore_best_weights=True),
        callbacks.ReduceLROnPlateau("val_loss", 0.7, patience=1, min_delta=0.01, cooldown=1),
        callbacks.ModelCheckpoint(folder / "{epoch}.keras", "val_loss", save_best_only=True),
        callbacks.CSVLogger(folder / "log.csv", append=True),
        callbacks.SwapEMAWeights(swap_on_epoch=True),
        Own(losses),
    ]


@pytest.mark.parametrize("killed", [1, 3])
def test_resumed_fit_has_the_states_of_callbacks(blobs, tmp_path, killed, monkeypatch):
    monkeypatch.setattr(Checkpoints, "due", lambda self: True)

    def fit(name, more=(), folder=None, epochs=9):
        (tmp_path / name).mkdir(exist_ok=True)
        model, losses = network(keras.optimizers.Adam(use_ema=True, ema_momentum=0.6)), []
        hooks = [*more, *all_kinds(tmp_path / name, losses)]
        options = dict(epochs=epochs, validation_data=adversary(blobs), callbacks=hooks)
        history = solver_fit(model, *blobs.train, **options, checkpoint_dir=folder)
        files = sorted(path.name for path in (tmp_path / name).glob("*.keras"))
        files.append((tmp_path / name / "log.csv").read_text())
        histories = [
            {name: np.array(values).tolist() for name, values in each.history.items() if name != "seconds"}
            for each in (history, model.history)
        ]
        return histories, losses, files, hooks[-1].by_epoch, model.get_weights()

    def assert_same(one, other):
        assert one[:-1] == other[:-1]
        for mine, theirs in zip(one[-1], other[-1], strict=True):
            np.testing.assert_array_equal(mine, theirs)

    whole = fit("whole")
    assert 5 <= len(whole[0][0]["epoch"]) < 9 and "1.keras" in whole[2], "early, and after a kill"
    with pytest.raises(Killed):
        fit("resumed", [Kill(killed)], tmp_path / "state")
    assert_same(fit("resumed", (), tmp_path / "state"), whole)
    assert_same(fit("resumed", (), tmp_path / "state"), whole)
    assert_same(fit("resumed", (), tmp_path / "state", epochs=20), whole)


def test_resumed_fit_of_more_epochs_starts_from_the_last_weights_not_the_best(blobs, tmp_path):
    def fit(epochs, folder, restore=True):
        model = network(keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.6))
        best = callbacks.EarlyStopping("loss", patience=9, restore_best_weights=restore, mode="max")
        hooks = [callbacks.SwapEMAWeights(), best]
        options = dict(validation_data=blobs.validation, callbacks=hooks, checkpoint_dir=folder)
        history = solver_fit(model, *blobs.train, epochs=epochs, **options)
        return history["val_loss"], [weights.tolist() for weights in model.get_weights()]

    first = fit(2, tmp_path)
    assert fit(2, tmp_path) == first, "its best weights, of epoch 1"
    assert fit(2, None, restore=False)[1] != first[1]
    assert fit(4, tmp_path) == fit(4, None)


class Counter(callbacks.Callback):
    def __init__(self, count=0, **values):
        super().__init__()
        self.count = count
        vars(self).update(values)


def states(hooks):
    """Return the states of callbacks after a checkpoint."""
    return json.loads(json.dumps(hooks.states(), default=lambda data: base64.b64encode(data).decode()))


def test_states_are_of_what_changed_by_class_and_order():
    first, second = Counter(setting="old"), Counter()
    hooks = Hooks([first, callbacks.EarlyStopping(), second])
    hooks.restore([])
    first.count, second.count = 1, 2
    fresh = [Counter(setting="new"), callbacks.ReduceLROnPlateau(), Counter(), Counter()]
    Hooks(fresh).restore(states(hooks))
    assert [each.count for each in fresh if isinstance(each, Counter)] == [1, 2, 0]
    assert fresh[0].setting == "new"


def test_state_outlives_a_second_resume_of_the_same_callback():
    counter = Counter()
    hooks = Hooks(counter)
    hooks.restore([])
    counter.count = 3
    again = Hooks(counter)  # Which begins with the count that it resumes.
    again.restore(states(hooks))
    fresh = Counter()
    Hooks(fresh).restore(states(again))
    assert fresh.count == 3


def test_states_restore_plain_data_and_drop_other():
    values = dict(
        none=None,
        numbers=[True, 2, -0.0, float("inf"), 0.1 + 0.2],
        text="漢",
        nested={1: ({"a"}, [()]), "/dict": {}, None: [[1]]},
        arrays=[np.arange(6, dtype=">i2").reshape(2, 3)[:, ::2], np.array(["ab", "c"]), np.zeros([0, 3])],
        scalar=np.float32(0.1),
        half=np.array([1.5, 2], ml_dtypes.bfloat16),
    )
    other = dict(function=len, objects=np.array([None]), of_lists=[object()], records=np.zeros(1, "i4,i4"))
    counter = Counter(nan=0.0)
    hooks = Hooks(counter)
    hooks.restore([])
    vars(counter).update(values, **other, nan=float("nan"))
    fresh = Counter()
    Hooks(fresh).restore(states(hooks))
    restored = vars(fresh)
    for name, value in values.items():
        if name not in ("arrays", "half"):
            assert restored[name] == value and type(restored[name]) is type(value)
    for one, two in zip(
        [*restored["arrays"], restored["half"]], [*values["arrays"], values["half"]], strict=True
    ):
        assert one.dtype == two.dtype and one.flags.writeable
        np.testing.assert_array_equal(one, two)
    assert np.isnan(fresh.nan)
    assert not other.keys() & restored.keys()


class OwnCheckpoint(callbacks.ModelCheckpoint):
    def on_test_batch_end(self, batch, logs=None):
        raise AssertionError


@pytest.mark.parametrize(
    "build, problems",
    [
        (lambda: callbacks.ModelCheckpoint("a.keras", save_freq=5), "save_freq=5 never saves, use 'epoch'"),
        (lambda: callbacks.BackupAndRestore("a", save_freq=1), "save_freq=1 never saves, use 'epoch'"),
        (
            lambda: callbacks.TensorBoard(update_freq="batch"),
            "update_freq=1 writes no summaries of batches",
        ),
        (lambda: callbacks.TensorBoard(profile_batch=2), "profile_batch does not profile"),
        (lambda: callbacks.ProgbarLogger(), "the bar does not move within an epoch"),
        (lambda: callbacks.LambdaCallback(on_train_batch_end=print), "on_train_batch_end is not called"),
        (lambda: OwnCheckpoint("a.keras"), "on_test_batch_end is not called"),
        (lambda: callbacks.TensorBoard(), None),
        (lambda: callbacks.ModelCheckpoint("a.keras"), None),
        (lambda: callbacks.BackupAndRestore("a"), None),
        (lambda: callbacks.TerminateOnNaN(), None),
        (lambda: type("Own", (callbacks.EarlyStopping,), {})(), None),
        (lambda: type("Own", (callbacks.ModelCheckpoint,), {})("a.keras"), None),
    ],
)
def test_callbacks_that_wait_for_batches_warn_by_name_of_what_does_not_happen(build, problems):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback = build()
        Hooks([callback], epochs=1, steps=1, verbose=1, add_progbar=True)
    messages = [str(warning.message) for warning in caught]
    if problems is None:
        assert messages == []
    else:
        [message] = messages
        assert message.startswith(f"{type(callback).__name__} waits for batches")
        assert message.endswith(f"{problems}.")


def test_callback_lists_of_keras_and_nested_lists_are_flattened():
    one, two = Counter(), Counter()
    for given in (callbacks.CallbackList([one, two]), [one, [two]], (one, two), [(one,), two]):
        assert Hooks(given).callbacks[:2] == [one, two]
    assert Hooks(one).callbacks[0] is one
    assert [type(each) for each in Hooks(None).callbacks] == [callbacks.History]


def test_history_has_what_some_epochs_alone_have():
    history = History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "later": 1}])
    assert history.history == {"epoch": [1, 2], "loss": [0.5, 0.25], "later": [1]}
    with pytest.raises(KeyError, match="never"):
        history["never"]


def test_diverged_fit_raises_where_a_callback_asks_for_an_error(blobs, tmp_path):
    ends = []
    hooks = [
        callbacks.TerminateOnNaN(raise_error=True),
        callbacks.LambdaCallback(
            on_train_end=ends.append, on_epoch_end=lambda epoch, logs: ends.append(epoch)
        ),
    ]
    with pytest.raises(RuntimeError, match=r"NaN or Inf loss encountered in epoch 1: \w+\."):
        solver_fit(network(keras.optimizers.SGD(1e30)), *blobs.train, epochs=3, callbacks=hooks)
    assert ends == []


def test_history_with_what_callbacks_add_is_plain_and_resumes(blobs, tmp_path):
    history = solver_fit(
        network(), *blobs.train, epochs=2, callbacks=[Adder()], checkpoint_dir=tmp_path / "a"
    )
    assert history["added"] == [0.0, 0.25] and history["later"] == [[1.0, 2.0]]
    history.save(tmp_path / "history.json")
    assert History.load(tmp_path / "history.json").records == history.records
    again = solver_fit(
        network(), *blobs.train, epochs=2, callbacks=[Adder()], checkpoint_dir=tmp_path / "a"
    )
    assert again.records == history.records
