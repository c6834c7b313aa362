import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbn

BATCHNORM_CLASSES = pytest.mark.parametrize(
    "kind", [tfbn.BatchNormalization, keras.layers.BatchNormalization], ids=["tfbn", "keras"]
)


def norm_alone(kind=tfbn.BatchNormalization, mean=0.0, variance=1.0, behind=None, **options):
    """Batch norm as the first layer, so that its inputs are the data."""
    layers = [kind(epsilon=1e-3, name="norm", **options), *([behind] if behind else [])]
    model = keras.Sequential([keras.Input([3]), *layers, keras.layers.Dense(2)])
    weights = {"gamma": np.ones(3), "beta": np.zeros(3)}
    layer = model.layers[0]
    layer.set_weights(
        [
            *weights.values(),
            np.broadcast_to(mean, [3]),
            np.broadcast_to(variance, [3]),
            *layer.get_weights()[4:],
        ]
    )
    return model


@pytest.fixture
def x(rng):
    return rng.normal([5, 0, -1], [2, 1, 0.5], [203, 3]).astype("float32")


@BATCHNORM_CLASSES
def test_layer_numbers_equal_those_of_the_data(x, kind):
    model = norm_alone(kind, mean=[4, 0, -1], variance=[4, 3, 0.25])
    (row,) = tfbn.diagnose(model, x, batch_size=50).layers
    data = x.astype("float64")
    spread = data.var(0) + 1e-3
    np.testing.assert_allclose(
        row["mean_error"], abs(np.array([4, 0, -1]) - data.mean(0)) / spread**0.5, rtol=1e-4
    )
    np.testing.assert_allclose(row["variance_ratio"], (np.array([4, 3, 0.25]) + 1e-3) / spread, rtol=1e-4)
    means = np.array([data[start : start + 50].mean(0) for start in range(0, 203, 50)])
    assert row["noise"] == pytest.approx(np.median(means.std(0) / spread**0.5), rel=1e-4)
    assert (row["name"], row["channels"], row["momentum"], row["steps"]) == ("norm", 3, 0.99, None)


@BATCHNORM_CLASSES
def test_scores_in_each_way_equal_those_in_numpy(x, kind):
    """Loss, accuracy and flips from outputs that plain NumPy computes."""
    model, y = norm_alone(kind, mean=3.0, variance=2.0), (x[:, 1] > 0).astype(int)
    kernel, bias = (w.numpy().astype("float64") for w in model.layers[-1].weights)
    data = x.astype("float64")

    def score(normalized, usual=None):
        logits = normalized @ kernel + bias
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        votes = logits.argmax(1)
        usual = votes if usual is None else usual
        loss = -np.log(chances[np.arange(len(y)), y]).mean()
        return {"loss": loss, "accuracy": (votes == y).mean(), "flips": (votes != usual).mean()}, votes

    parts = np.split(data, range(64, 203, 64))
    by_batch = np.concatenate([(part - part.mean(0)) / np.sqrt(part.var(0) + 1e-3) for part in parts])
    moving, usual = score((data - 3) / np.sqrt(2 + 1e-3))
    expected = {
        "moving": moving,
        "batch": score(by_batch, usual)[0],
        "recalibrated": score((data - data.mean(0)) / np.sqrt(data.var(0) + 1e-3), usual)[0],
        "single": score(0 * data, usual)[0],
    }
    ways = tfbn.diagnose(model, (x, y), batch_size=64).ways
    assert list(ways) == list(expected)
    for name, way in expected.items():
        assert ways[name] == pytest.approx(way, rel=1e-3), name


def test_diagnose_leaves_the_model_unchanged(x):
    model = norm_alone(mean=3.0)
    before = model.get_weights()
    tfbn.diagnose(model, (x, np.zeros(203)))
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_lag_is_found_and_recalibration_mends_it(mnist):
    """100 steps at a momentum of 0.99, as in a short first training."""
    keras.utils.set_random_seed(0)
    model = tfbn.Model(784, 10, (100,), seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss=loss, metrics=["accuracy"], jit_compile=False)
    model.fit(mnist.train.x[:3200], mnist.train.y[:3200], batch_size=32, verbose=0)
    found = tfbn.diagnose(model, mnist.validation)
    assert found.layers[0]["steps"] == 100
    assert found.layers[0]["start_left"] == pytest.approx(0.99**100)
    (said,) = [said for said in found.findings if "lag" in said]
    assert "after 100 steps at a momentum of 0.99 they still hold 37% of their start" in said
    tfbn.recalibrate(model, mnist.train)
    mended = tfbn.diagnose(model, mnist.validation)
    assert mended.ways["moving"]["accuracy"] >= mended.ways["batch"]["accuracy"] - 0.005
    assert mended.ways["moving"]["accuracy"] > found.ways["moving"]["accuracy"]
    assert mended.findings == ["No fault found: the moving averages are those of the data."]


@pytest.mark.parametrize(
    ("make", "steps", "said"),
    [
        (lambda x: norm_alone(mean=9.0), None, "forgets its start in some 458 steps"),
        (lambda x: norm_alone(mean=9.0), 5000, "not the data, or not the weights"),
        (lambda x: norm_alone(mean=9.0, momentum=None), 10, "not the data, or not the weights"),
        (lambda x: norm_alone(mean=9.0, debias=True), 10, "not the data, or not the weights"),
    ],
)
def test_findings_name_the_reason(x, make, steps, said):
    model = make(x)
    if hasattr(model.layers[0], "count"):
        model.layers[0].count.assign(np.full(3, 1000.0))
    findings = tfbn.diagnose(model, x, steps=steps).findings
    assert any(said in finding for finding in findings), findings


@pytest.mark.parametrize(
    ("behind", "counts", "said"),
    [
        (keras.layers.ReLU, (2, 0), "2 of 3 channels are never positive ahead of a ReLU: dead"),
        (lambda: keras.layers.Activation("relu"), (2, 0), "dead"),
        (lambda: keras.layers.Activation("tanh"), (0, 2), "2 of 3 channels are beyond ±4 almost always"),
        (keras.layers.Identity, (0, 0), "No fault found"),
        (lambda: keras.layers.ReLU(negative_slope=0.1), (0, 0), "No fault found"),
    ],
)
def test_dead_and_saturated_channels_are_counted(x, behind, counts, said):
    model = tfbn.recalibrate(norm_alone(behind=behind()), x)
    model.layers[0].beta.assign([-40.0, 0.0, -40.0])
    diagnosis = tfbn.diagnose(model, x)
    assert tuple(diagnosis.layers[0][key] for key in ("dead", "saturated")) == counts
    assert said in diagnosis.findings[0]


def test_a_channel_alive_in_one_batch_only_is_not_dead(x):
    x[:32, 0] += 50
    model = tfbn.recalibrate(norm_alone(behind=keras.layers.ReLU()), x)
    assert np.asarray(model.layers[0](x))[32:, 0].max() < 0
    assert tfbn.diagnose(model, x).layers[0]["dead"] == 0


def test_constant_inputs_count_as_near_epsilon(x):
    (row,) = tfbn.diagnose(norm_alone(), x * [1, 0, 1]).layers
    assert row["near_epsilon"] == 1


def test_small_batches_are_found_noisy(x):
    diagnosis = tfbn.diagnose(norm_alone(), x, batch_size=2)
    assert diagnosis.layers[0]["noise"] > 0.5
    assert any("larger or better mixed batches" in said for said in diagnosis.findings)


def test_scores_without_labels_or_classes_are_none(x):
    assert tfbn.diagnose(norm_alone(), x).ways["batch"]["accuracy"] is None
    model = keras.Sequential([keras.Input([3]), tfbn.BatchNormalization(), keras.layers.Dense(1)])
    ways = tfbn.diagnose(model, (x, x[:, 0]), loss="mse").ways
    assert ways["moving"]["loss"] > 0
    assert (ways["batch"]["accuracy"], ways["batch"]["flips"]) == (None, None)
    assert "-" in tfbn.diagnose(model, x).table()


def test_scores_of_binary_classifiers_equal_those_of_keras(rng, x):
    y = (x[:, 0] > 5).astype(int)
    for last, logits in (("sigmoid", False), (None, True)):
        model = keras.Sequential(
            [keras.Input([3]), tfbn.BatchNormalization(), keras.layers.Dense(1, activation=last)]
        )
        model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=logits))
        # A batch of one, whose output may be between 0 and 1 and a logit yet.
        model.layers[-1].bias.assign([0.3])
        expected = model.evaluate(x, y, verbose=0)
        votes = np.asarray(model(x)).ravel() > (0 if logits else 0.5)
        for ways in (
            tfbn.diagnose(model, (x, y), batch_size=1).ways,
            tfbn.diagnose(model, (x, y), loss=model.loss).ways,
        ):
            assert ways["moving"]["loss"] == pytest.approx(expected, rel=1e-5)
            assert ways["moving"]["accuracy"] == pytest.approx(np.mean(votes == y))


def test_scores_of_several_labels_an_example_cut_each_output(x):
    y = (x > 5).astype(int)
    model = keras.Sequential([keras.Input([3]), tfbn.BatchNormalization(), keras.layers.Dense(3)])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    ways = tfbn.diagnose(model, (x, y), loss=loss).ways
    logits = np.asarray(model(x), "float64")
    assert ways["moving"]["accuracy"] == pytest.approx(((logits > 0) == y).mean())
    assert ways["moving"]["loss"] == pytest.approx(np.mean(np.logaddexp(0, logits) - y * logits), rel=1e-5)


def test_numbers_that_look_like_classes_get_no_accuracy_under_a_loss_of_numbers(x):
    model = keras.Sequential([keras.Input([3]), tfbn.BatchNormalization(), keras.layers.Dense(1)])
    diagnosis = tfbn.diagnose(model, (x, (x[:, 0] > 5).astype(int)), loss="mse")
    assert diagnosis.ways["moving"]["accuracy"] is None
    assert not {"better", "worse", "equal"} & set(diagnosis.codes)


def test_diagnose_rejects_labels_in_a_form_that_the_loss_does_not_take(x):
    with pytest.raises(ValueError, match="'categorical_crossentropy' needs one-hot labels"):
        tfbn.diagnose(norm_alone(), (x, (x[:, 0] > 5).astype(int)), loss="categorical_crossentropy")


def test_a_loss_by_name_accepts_flat_labels(x):
    """A function, unlike a class of Keras', does not bring labels and outputs into one shape."""
    y = (x[:, 0] > 5).astype(int)
    last = keras.layers.Dense(1, activation="sigmoid")
    model = keras.Sequential([keras.Input([3]), tfbn.BatchNormalization(), last])
    usual, named = (tfbn.diagnose(model, (x, y), loss=loss) for loss in (None, "binary_crossentropy"))
    assert usual.ways["moving"] == pytest.approx(named.ways["moving"], rel=1e-5)


def test_scores_allow_an_inner_softmax_and_shuffled_data(x):
    """Keras' own evaluation knows the loss; a shuffled set is read in another order by each pass."""
    y = x.argmax(1)
    inputs = keras.Input([3])
    inner = keras.Sequential([keras.Input([3]), tfbn.BatchNormalization(), keras.layers.Softmax()])
    model = keras.Model(inputs, keras.layers.Activation("linear")(inner(inputs)))
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    tfbn.recalibrate(model, x)
    shuffled = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(203).batch(20)
    diagnosis = tfbn.diagnose(model, shuffled)
    expected = model.evaluate(x, y, verbose=0)
    for way in ("moving", "recalibrated"):
        assert [diagnosis.ways[way][key] for key in ("loss", "accuracy")] == pytest.approx(
            expected, rel=1e-4
        )
    assert diagnosis.ways["recalibrated"]["flips"] == 0
    assert diagnosis.about["batch_size"] == 20 and "batches of 20" in diagnosis.table()


def test_two_outputs_are_not_scored(x):
    inputs = keras.Input([3])
    norm = tfbn.BatchNormalization()(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(4)(norm), keras.layers.Dense(4)(norm)])
    diagnosis = tfbn.diagnose(model, x)
    assert diagnosis.about["examples"] == 203
    assert set(diagnosis.ways["batch"].values()) == {None}


@pytest.mark.parametrize(
    "labels", [lambda x: 2 * x[:, :2], lambda x: np.full(len(x), 2), lambda x: x[:, 0]]
)
def test_diagnose_rejects_labels_that_are_not_classes_without_a_loss(x, labels):
    with pytest.raises(ValueError, match="classes from 0 to 1, as integers or one-hot"):
        tfbn.diagnose(norm_alone(), (x, labels(x)))


def test_labels_reach_a_loss_unchanged(x):
    y = 2 * x[:, :2]
    model = norm_alone()
    expected = np.mean((np.asarray(model(x), "float64") - y) ** 2)
    way = tfbn.diagnose(model, (x, y), loss="mse").ways["moving"]
    assert (way["loss"], way["accuracy"]) == (pytest.approx(expected, rel=1e-5), None)
    hot = np.eye(2)[(x[:, 0] > 5).astype(int)]
    given = keras.losses.CategoricalCrossentropy(from_logits=True)
    ways = [tfbn.diagnose(model, (x, hot), loss=loss).ways["moving"] for loss in (given, None)]
    assert ways[0] == pytest.approx(ways[1], rel=1e-5)


@pytest.mark.parametrize(("steps", "error"), [(-1, ValueError), (2.5, TypeError), (True, TypeError)])
def test_diagnose_rejects_steps_that_are_not_a_count(x, steps, error):
    with pytest.raises(error, match=f"steps={steps}"):
        tfbn.diagnose(norm_alone(), x, steps=steps)


def test_steps_default_to_the_count_of_a_debiased_layer(x):
    model = norm_alone(debias=True)
    model.layers[0].count.assign(np.zeros(3))
    for _ in range(7):
        model(x, training=True)
    assert tfbn.diagnose(model, x).layers[0]["steps"] == 7


def test_diagnose_accepts_several_inputs_in_a_dict(x):
    inputs = {"left": keras.Input([3], name="left"), "right": keras.Input([3], name="right")}
    joined = tfbn.BatchNormalization()(keras.layers.Add()([inputs["left"], inputs["right"]]))
    model = keras.Model(inputs, keras.layers.Dense(2)(joined))
    (row,) = tfbn.diagnose(model, {"left": x, "right": 0 * x}).layers
    np.testing.assert_allclose(row["mean_error"], abs(x.mean(0)) / np.sqrt(x.var(0) + 1e-3), rtol=1e-3)


def test_table_keeps_to_80_columns(x, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    model = norm_alone(mean=3.0)
    model.layers[0].name = "block_17_batch_normalization_1"
    layers, ways, _ = tfbn.diagnose(model, x).table().split("\n\n")
    lines = [*layers.splitlines(), *ways.splitlines()]
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("batch_normalization_1 ") for line in lines)


def test_table_json_and_figure_have_the_numbers(x, tmp_path):
    diagnosis = tfbn.diagnose(norm_alone(mean=3.0), (x, x[:, 0] > 5))
    table = diagnosis.table()
    for words in (
        "layer",
        "norm ",
        "moving averages, as in use",
        "statistics of batches of 32",
        "each example",
    ):
        assert words in table
    assert max(map(len, table.split("\n\n")[0].splitlines())) <= 90
    content = json.loads(diagnosis.to_json())
    assert content["layers"][0]["channels"] == 3
    assert content["examples"] == 203
    left, right = diagnosis.plot()
    assert left.get_xlabel() and right.get_xlabel()
    points = np.concatenate([line.get_xdata() for line in left.lines[:1]])
    np.testing.assert_allclose(points, diagnosis.layers[0]["mean_error"])
    diagnosis.save_figure(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
