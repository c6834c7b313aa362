"""Losses and metrics give what Keras, on labels and outputs as they have to be read, computes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbn

L, losses, metrics = keras.layers, keras.losses, keras.metrics
X = np.random.default_rng(0).normal(size=[90, 8]).astype("float32")
LABELS = np.argmax(X[:, :3], 1)
ONE_HOT = np.eye(3, dtype="float32")[LABELS]
MULTI_HOT = (X[:, :3] > 0.3).astype("int32")


def net(outputs=3, activation=None):
    start = keras.initializers.RandomNormal(stddev=0.5, seed=1)
    return keras.Sequential([keras.Input([8]), L.Dense(outputs, activation, kernel_initializer=start)])


def by_keras(metric, y, outputs):
    metric.update_state(y, outputs)
    return np.asarray(metric.result())


def evaluated(y, loss=None, outputs=3, activation=None, **options):
    """Return what a solver measures, by name, and the network's outputs."""
    solver = tfbn.Solver(net(outputs, activation), "sgd", 0.0, loss, **options)
    history = solver.fit(X, y, batch_size=30, shuffle=False, validation_data=(X, y))
    return history, solver.model.predict(X, verbose=0)


ONE_HOT_METRICS = [
    (metrics.CategoricalAccuracy, {}),
    (metrics.TopKCategoricalAccuracy, {"k": 2}),
    (metrics.F1Score, {}),
    (metrics.FBetaScore, {"average": "macro"}),
    (metrics.MeanSquaredError, {}),
    (metrics.OneHotMeanIoU, {"num_classes": 3}),
    (metrics.Recall, {"thresholds": 0, "class_id": 1}),
    (metrics.AUC, {"multi_label": True, "num_labels": 3, "from_logits": True}),
    (metrics.CosineSimilarity, {}),
]


@pytest.mark.parametrize("y", [LABELS, ONE_HOT], ids=["integers", "one_hot"])
@pytest.mark.parametrize(("kind", "options"), ONE_HOT_METRICS)
def test_metrics_of_one_hot_labels(kind, options, y):
    history, outputs = evaluated(y, metrics=["accuracy", kind(name="own", **options)])
    expected = by_keras(kind(**options), ONE_HOT, outputs)
    np.testing.assert_allclose(history["val_own"][0], expected, rtol=1e-5)
    assert history["accuracy"] == [pytest.approx((outputs.argmax(1) == LABELS).mean())]
    cross_entropy = losses.CategoricalCrossentropy(from_logits=True)(ONE_HOT, outputs)
    assert history["loss"] == [pytest.approx(float(cross_entropy), rel=1e-5)]


@pytest.mark.parametrize("y", [LABELS, ONE_HOT], ids=["integers", "one_hot"])
def test_metrics_of_integer_labels(y):
    history, outputs = evaluated(
        y, metrics=["sparse_categorical_accuracy", "sparse_categorical_crossentropy"]
    )
    assert history["sparse_categorical_accuracy"] == [pytest.approx((outputs.argmax(1) == LABELS).mean())]
    expected = float(losses.SparseCategoricalCrossentropy(from_logits=True)(LABELS, outputs))
    assert history["sparse_categorical_crossentropy"] == [pytest.approx(expected, rel=1e-5)]


@pytest.mark.parametrize("y", [LABELS, ONE_HOT], ids=["integers", "one_hot"])
def test_metrics_of_the_users_own_take_labels_as_they_come(y):
    shapes = []

    def own(y_true, y_pred):
        shapes.append(y_true.shape[1:])
        return keras.ops.mean(y_pred, -1)

    evaluated(y, metrics=["accuracy", own])
    assert set(shapes) == {y.shape[1:]}


def test_label_smoothing_equals_its_formula():
    history, outputs = evaluated(
        ONE_HOT, losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), metrics=["ce"]
    )
    log_p = outputs - np.log(np.exp(outputs.astype("float64")).sum(1, keepdims=True))
    assert history["loss"] == [pytest.approx(-((0.9 * ONE_HOT + 0.1 / 3) * log_p).sum(1).mean(), rel=1e-5)]
    assert history["ce"] == [pytest.approx(-(ONE_HOT * log_p).sum(1).mean(), rel=1e-5)]


BINARY = (LABELS == 1).astype("int32")
LOGIT_LOSSES = [
    losses.BinaryCrossentropy(from_logits=True),
    losses.BinaryFocalCrossentropy(from_logits=True),
    losses.Hinge(),
    "squared_hinge",
]


@pytest.mark.parametrize("y", [BINARY, BINARY[:, None], MULTI_HOT], ids=["flat", "column", "multi_hot"])
@pytest.mark.parametrize("name", ["accuracy", "binary_accuracy"])
@pytest.mark.parametrize("loss", LOGIT_LOSSES, ids=["bce", "focal", "hinge", "squared_hinge"])
def test_accuracy_cuts_logits_at_zero(loss, name, y):
    outputs = 3 if y is MULTI_HOT else 1
    history, logits = evaluated(y, loss, outputs, metrics=[name])
    truth = ((logits > 0) == y.reshape(logits.shape)).mean()
    assert truth != ((logits > 0.5) == y.reshape(logits.shape)).mean()
    assert history[name] == [pytest.approx(truth)] and history[f"val_{name}"] == [pytest.approx(truth)]


def test_accuracy_under_a_hinge_loss_takes_labels_of_minus_one():
    history, scores = evaluated(2 * BINARY - 1, "hinge", 1)
    assert history["accuracy"] == [pytest.approx(((scores[:, 0] > 0) == BINARY).mean())]


@pytest.mark.parametrize("y", [BINARY, MULTI_HOT], ids=["one", "several"])
@pytest.mark.parametrize("loss", ["binary_crossentropy", losses.BinaryFocalCrossentropy()])
def test_accuracy_cuts_probabilities_at_a_half(loss, y):
    history, p = evaluated(y, loss, 3 if y is MULTI_HOT else 1, "sigmoid")
    assert history["accuracy"] == [pytest.approx(((p > 0.5) == y.reshape(p.shape)).mean())]


def test_accuracy_of_a_softmax_is_of_its_class_under_binary_crossentropy_too():
    history, p = evaluated(ONE_HOT, "binary_crossentropy", 3, "softmax")
    assert history["accuracy"] == [pytest.approx((p.argmax(1) == LABELS).mean())]


def test_compared_accuracies_of_logits_are_cut_at_zero(small_data):
    result = tfbn.compare(
        {"a": lambda: net(1)}, small_data, epochs=1, seeds=1, learning_rate=0.0,
        loss=losses.BinaryCrossentropy(from_logits=True),
    )  # fmt: skip
    truth = ((net(1).predict(X, verbose=0)[:, 0] > 0) == BINARY).mean()
    assert result.test[0]["accuracy"] == pytest.approx(truth)


@pytest.fixture
def small_data():
    return tfbn.data.Data(train=(X, BINARY), validation=(X, BINARY), test=(X, BINARY))


@pytest.mark.parametrize(
    ("name", "reads_logits"),
    [
        ("AUC", metrics.AUC(from_logits=True)),
        ("Precision", metrics.Precision(thresholds=0)),
        ("FalsePositives", metrics.FalsePositives(thresholds=0)),
        ("binary_crossentropy", metrics.BinaryCrossentropy(from_logits=True)),
    ],
)
def test_metrics_by_name_read_logits(name, reads_logits):
    loss = losses.BinaryCrossentropy(from_logits=True)
    history, logits = evaluated(BINARY[:, None], loss, 1, metrics=[name])
    reads_logits.reset_state()
    expected = by_keras(reads_logits, BINARY[:, None], logits)
    assert history[f"val_{name}"] == [pytest.approx(expected, rel=1e-5)]


@pytest.mark.parametrize("name", ["ce", "crossentropy"])
@pytest.mark.parametrize(
    ("y", "loss", "options", "expected"),
    [
        (LABELS, None, dict(activation="softmax"), metrics.SparseCategoricalCrossentropy()),
        (ONE_HOT, losses.CategoricalFocalCrossentropy(), dict(activation="softmax"),
         metrics.CategoricalCrossentropy()),
        (BINARY[:, None], losses.BinaryFocalCrossentropy(from_logits=True), dict(outputs=1),
         metrics.BinaryCrossentropy(from_logits=True)),
    ],
)  # fmt: skip
def test_cross_entropy_by_name_is_that_of_the_loss(y, loss, options, expected, name):
    history, outputs = evaluated(y, loss, **options, metrics=[name])
    expected.reset_state()
    assert history[f"val_{name}"] == [pytest.approx(by_keras(expected, y, outputs), rel=1e-5)]


@pytest.mark.parametrize(
    "metric", [metrics.AUC(), metrics.Precision(), metrics.BinaryAccuracy(), "kl_divergence", "poisson"]
)
def test_metrics_that_would_read_logits_as_probabilities_are_warned_of(metric):
    with pytest.warns(UserWarning, match="reads outputs as probabilities"):
        evaluated(BINARY, losses.BinaryCrossentropy(from_logits=True), 1, metrics=[metric])


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (LABELS, dict(loss="categorical_crossentropy"), "'categorical_crossentropy' needs one-hot labels"),
        (LABELS, dict(loss=losses.CategoricalHinge()), "CategoricalHinge needs one-hot labels"),
        (ONE_HOT, dict(loss="sparse_categorical_crossentropy"), "needs integer labels"),
        (ONE_HOT, dict(loss="mse", metrics=["sparse_categorical_accuracy"]), "needs integer labels"),
        (LABELS, dict(metrics=["f1_score", "sparse_categorical_accuracy"]), "in one form"),
        (LABELS, dict(activation="sigmoid"), "ends in a sigmoid"),
        (MULTI_HOT, {}, "several labels an example"),
    ],
)
def test_labels_that_loss_or_metrics_do_not_take_are_rejected(y, options, message):
    with pytest.raises(ValueError, match=message):
        evaluated(y, **options)


@pytest.mark.parametrize(
    ("trained", "later", "loss", "message"),
    [
        (ONE_HOT, LABELS, "mse", "needs one-hot labels"),
        (ONE_HOT, LABELS, losses.CategoricalCrossentropy(from_logits=True), "needs one-hot labels"),
        (LABELS, ONE_HOT, losses.SparseCategoricalCrossentropy(from_logits=True), "needs integer labels"),
    ],
)
def test_labels_of_later_data_are_checked_too(trained, later, loss, message):
    solver = tfbn.Solver(net(), loss=loss, metrics=[])
    solver.fit(X, trained)
    for validation in ((X[:3], later[:3]), tf.data.Dataset.from_tensor_slices((X, later)).batch(3)):
        with pytest.raises(ValueError, match=message):
            solver.fit(X, trained, validation_data=validation)
    with pytest.raises(ValueError, match=message):
        solver.evaluate(X[:3], later[:3])


def test_two_columns_for_one_output_are_rejected():
    with pytest.raises(ValueError, match="one value for the one output"):
        evaluated(MULTI_HOT[:, :2], losses.BinaryCrossentropy(from_logits=True), 1)


@pytest.mark.parametrize(
    ("loss", "y", "build"),
    [
        (losses.Circle(), LABELS, net),
        (losses.CTC(), np.array([[1, 2]] * 90), lambda: keras.Sequential([net(30), L.Reshape([6, 5])])),
    ],
)
def test_losses_with_labels_of_their_own_form_equal_those_of_keras(loss, y, build):
    solver = tfbn.Solver(build(), loss=loss, metrics=[])
    expected = loss(y, build().predict(X, verbose=0))
    assert solver.evaluate(X, y).loss == pytest.approx(float(expected), rel=1e-5)


def test_a_graph_that_hides_its_end_asks_for_a_loss():
    hidden = keras.Sequential([net(), L.Lambda(lambda x: keras.ops.map(keras.ops.softmax, x))])
    with pytest.raises(ValueError, match="whether it gives logits or probabilities"):
        tfbn.Solver(hidden).evaluate(X, LABELS)
    given = tfbn.Solver(hidden, loss=losses.SparseCategoricalCrossentropy())
    p = hidden.predict(X, verbose=0)[np.arange(90), LABELS]
    assert given.evaluate(X, LABELS).loss == pytest.approx(-np.log(p).mean(), rel=1e-5)


def test_a_saved_model_with_accuracy_of_logits_loads_in_keras(tmp_path):
    solver = tfbn.Solver(net(1), loss=losses.BinaryCrossentropy(from_logits=True))
    solver.fit(X, BINARY)
    solver.model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    again = loaded.evaluate(X, BINARY, verbose=0, return_dict=True)
    assert again["accuracy"] == pytest.approx(solver.evaluate(X, BINARY).accuracy)
