"""Several networks, the same batches, several seeds."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_arms import ARMS, build

import tfbn
from tfbn.comparison import programs
from tfbn.data.arrays import batch_order


def without_seconds(records):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def test_two_equal_arms_get_equal_records(blobs):
    """Same batches, same order, same initial weights: nothing is left to differ."""
    result = tfbn.compare({"a": build(dropout=0.2), "b": build(dropout=0.2)}, blobs, epochs=3, seeds=2)
    for arms in (result.records, result.test):
        a, b = ([{**r, "arm": ""} for r in without_seconds(arms) if r["arm"] == arm] for arm in "ab")
        assert a == b
    assert result.scores("a", "loss")[0] != result.scores("a", "loss")[1]


@pytest.mark.xla
def test_a_seed_gives_the_same_alone_and_after_others(blobs):
    """Restarting forgets everything: weights, averages, the optimizer's state, dropout's."""
    arms = {"a": build(dropout=0.2), "b": build(False)}
    alone = tfbn.compare(arms, blobs, epochs=2, seeds=[5], jit=False)
    third = tfbn.compare(arms, blobs, epochs=2, seeds=[1, 2, 5], jit=False)
    assert without_seconds(alone.records) == without_seconds(r for r in third.records if r["seed"] == 5)
    assert alone.test == [r for r in third.test if r["seed"] == 5]


def test_an_unbuilt_model_trains_as_a_built_one(blobs):
    def waiting(*first):
        return keras.Sequential(
            [*first, keras.layers.Dense(4), keras.layers.Dropout(0.1), keras.layers.Dense(3)]
        )

    arms = {"waits": waiting, "knows": lambda: waiting(keras.Input([8]))}
    result = tfbn.compare(arms, blobs, epochs=1, seeds=2, jit=False)
    assert result.scores("waits", "loss") == result.scores("knows", "loss")


def test_an_arm_with_integer_inputs_leaves_the_other_arms_unchanged(blobs):
    def whole_numbers():
        x = keras.Input([8], dtype="int32")
        y = keras.layers.Rescaling(1.0)(x)
        return keras.Model(x, keras.layers.Dense(3)(y))

    alone = tfbn.compare({"a": build()}, blobs, epochs=1, seeds=np.int64(1), jit=False)
    arms = {"whole": whole_numbers, "a": build()}
    beside = tfbn.compare(arms, blobs, epochs=1, seeds=1, jit=False)
    assert beside.scores("a", "loss") == alone.scores("a", "loss")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_loss_that_is_not_finite_in_any_split_counts_as_diverged(blobs, split):
    huge = (np.full([4, 8], 3e38, "float32"), [0, 1, 2, 0])
    data = tfbn.data.Data(**{**blobs.splits(), split: huge})
    result = tfbn.compare({"a": build(False)}, data, epochs=2, seeds=1, jit=False)
    assert result.about["diverged"] == [{"arm": "a", "seed": 0, "epoch": 1 if split == "validation" else 2}]
    assert result.test == []
    assert "-" in result.table()


def test_records_equal_those_of_a_loop_of_keras_own_steps(blobs, result):
    for arm in ("batchnorm", "plain"):
        keras.utils.set_random_seed(1)
        model = ARMS[arm]()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"], jit_compile=False)
        for epoch in (1, 2, 3):
            for batch in batch_order(203, seed=1, epoch=epoch)[:200].reshape(10, 20):
                model.train_on_batch(blobs.train.x[batch], blobs.train.y[batch])
            (record,) = [r for r in result.records if (r["arm"], r["seed"], r["epoch"]) == (arm, 1, epoch)]
            for name in ("train", "validation"):
                expected = model.evaluate(*blobs.splits()[name], verbose=0)
                got = record[f"{name}_loss"], record[f"{name}_accuracy"]
                assert got == pytest.approx(tuple(expected), rel=1e-3)
        expected = model.evaluate(*blobs.test, verbose=0)
        assert result.scores(arm, "loss")[1] == pytest.approx(expected[0], rel=1e-3)
        assert result.scores(arm)[1] == pytest.approx(expected[1])


def test_an_arm_is_traced_once_for_all_seeds(blobs, monkeypatch):
    solvers = []

    class Watched(programs.Solver):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            solvers.append(self)

    monkeypatch.setattr(programs, "Solver", Watched)
    tfbn.compare(ARMS, blobs, epochs=2, seeds=3)
    assert [solver._steps._epoch.experimental_get_tracing_count() for solver in solvers] == [1, 1]


def test_records_are_complete_and_in_order(result):
    order = [(r["seed"], r["arm"], r["epoch"]) for r in result.records]
    assert order == [(s, a, e) for s in (0, 1) for a in ("batchnorm", "plain") for e in (1, 2, 3)]
    metrics = ["train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]
    assert all(list(record) == ["arm", "seed", "epoch", *metrics, "seconds"] for record in result.records)
    assert [list(r) for r in result.test] == [["arm", "seed", "loss", "accuracy"]] * 4
    assert result.about["dataset"]["train"] == 203
    assert result.about["jit"] == {"batchnorm": True, "plain": True}


def test_settings_hold_the_architecture_of_each_arm(result):
    config = result.about["settings"]["arms"]["plain"]["architecture"]["config"]
    assert config["use_batchnorm"] is False
    assert config["hidden_dims"] == [6]


def test_on_epoch_is_called_with_each_record(blobs):
    seen = []
    result = tfbn.compare(ARMS, blobs, epochs=2, seeds=1, jit=False, on_epoch=seen.append)
    assert sorted(map(str, seen)) == sorted(map(str, result.records))


def test_each_arm_gets_a_copy_of_the_optimizer(blobs):
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    short = dict(epochs=1, seeds=1, jit=False)
    tfbn.compare(ARMS, blobs, optimizer=scaled, **short)
    mine = keras.optimizers.SGD(0.5, momentum=0.9)
    by_instance = tfbn.compare(ARMS, blobs, optimizer=mine, learning_rate=0.1, **short)
    assert float(mine.learning_rate) == 0.5
    assert not mine.built
    settings = by_instance.about["settings"]["optimizer"]
    assert settings["class_name"] == "SGD"
    assert settings["config"]["learning_rate"] == 0.1
    assert settings["config"]["momentum"] == 0.9
    again = tfbn.compare(ARMS, blobs, optimizer=keras.optimizers.SGD(0.1, momentum=0.9), **short)
    assert again.test == by_instance.test


def test_notes_name_arms_whose_averages_are_near_their_start(blobs):
    def arm(**options):
        return build(True, batchnorm_options=options)

    arms = {"late": arm(), "early": arm(momentum=0.5), "debiased": arm(debias=True), "plain": build(False)}
    result = tfbn.compare(arms, blobs, epochs=2, batch_size=20, seeds=1)
    # 20 steps: 0.99**20 = 0.818, and 0.5**20 is nothing.
    (note,) = result.about["notes"]
    assert note.startswith("late: after 20 steps at a momentum of 0.99 moving averages still hold 82 %")
    assert note in result.verdict()


@pytest.mark.xla
def test_convolutions_train_on_a_second_device(rng):
    y = rng.integers(0, 3, 60)
    x = rng.normal(size=[60, 8, 8, 1]) + y[:, None, None, None]
    images = tfbn.data.Data(train=(x, y), validation=(x, y), test=(x, y), name="squares")
    arms = {
        "conv": lambda: tfbn.Model((8, 8, 1), 3, (6,), conv_filters=(4,)),
        "dense": lambda: tfbn.Model((8, 8, 1), 3, (6,)),
    }
    result = tfbn.compare(arms, images, epochs=30, batch_size=10, seeds=1, device="cpu:1")
    assert result.about["jit"] == {"conv": False, "dense": True}
    assert result.about["device"].startswith("cpu:1")
    assert result.scores("conv")[0] > 0.6


def test_all_arms_share_the_data_on_the_device(blobs, monkeypatch):
    seen = []
    train_epoch = programs.Solver.train_epoch

    def watched(solver, arrays, *rest):
        seen.append(arrays.x)
        return train_epoch(solver, arrays, *rest)

    monkeypatch.setattr(programs.Solver, "train_epoch", watched)
    tfbn.compare(ARMS, blobs, epochs=1, seeds=1, jit=False)
    assert len(seen) == 2
    assert seen[0] is seen[1]
    assert isinstance(seen[0], tf.Tensor)


def test_a_missing_class_and_batches_of_one_train(blobs):
    kept = blobs.train.y != 1
    train = (blobs.train.x[kept][:9], blobs.train.y[kept][:9])
    data = tfbn.data.Data(train=train, validation=blobs.validation, test=blobs.test)
    result = tfbn.compare(ARMS, data, epochs=2, batch_size=1, seeds=1, jit=False)
    assert data.classes == 3
    assert len(result.test) == 2 and not result.about["diverged"]
