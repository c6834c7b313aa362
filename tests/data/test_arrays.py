"""Arrays as data, right ones beside wrong ones, and the order of their batches."""

import numpy as np
import pytest
import tensorflow as tf

from tfbn import data
from tfbn.data.arrays import Data, Split, as_classes, batch_order, check_batch_size, epoch_order

X, Y = np.zeros([4, 2]), [0, 1, 2, 1]


def test_batch_order_is_a_permutation_by_seed_and_epoch():
    order = batch_order(1000, seed=1, epoch=2)
    assert sorted(order) == list(range(1000))
    np.testing.assert_array_equal(order, batch_order(1000, seed=1, epoch=2))
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        assert (order != batch_order(1000, seed, epoch)).any()


@pytest.mark.parametrize(
    ("examples", "batch_size", "steps"), [(10, 3, 1), (10, 3, 3), (10, 3, 7), (6, 6, 4)]
)
def test_epochs_of_any_steps_cut_one_series_of_passes(examples, batch_size, steps):
    in_a_pass = examples // batch_size
    passes = [batch_order(examples, 5, 1 + i)[: in_a_pass * batch_size] for i in range(30)]
    stream = np.concatenate(passes).reshape(-1, batch_size)
    cut = [epoch_order(examples, batch_size, 5, epoch, steps) for epoch in (1, 2, 3, 4)]
    np.testing.assert_array_equal(np.concatenate(cut).reshape(-1, batch_size), stream[: 4 * steps])


def test_epoch_is_a_pass_by_default():
    np.testing.assert_array_equal(epoch_order(10, 3, 1, 4), batch_order(10, 1, 4)[:9])


def test_data_keeps_targets_of_a_regression_as_numbers():
    x, y = np.linspace(0, 1, 5)[:, None], np.array([0.5, -1, 2, 3.25, 4])
    data = Data((x, y), (x, y), (x, y), classes=0)
    assert data.train.y.dtype == "float32"
    np.testing.assert_array_equal(data.train.y, y)
    assert data.about()["curve"]["y"] == y.tolist()
    wide = np.zeros([5, 2])
    assert "curve" not in Data((wide, wide), (wide, wide), (wide, wide), classes=0).about()


def with_split(**changes):
    """Data of the same split three times, but for the changes."""
    return Data(**{"train": (X, Y), "validation": (X, Y), "test": (X, Y), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": (X, Y[:3])}, "train x and y must be arrays of the same number"),
        ({"test": (X[:0], [])}, "test x and y"),
        ({"validation": (X + np.nan, Y)}, "validation x has NaN or infinity in 4 of 4"),
        ({"test": (np.zeros([4, 3]), Y)}, "one shape"),
        ({"test": (X, [0, 1, 2, 3]), "classes": 3}, "test y must be within 3 classes"),
        ({"train": (X.astype(str), Y)}, "must be real numbers"),
        (
            {"train": (X + 1e300, Y)},
            "train x has NaN or infinity in 4 of 4 examples, the first at 0 (as float32)",
        ),
        ({"train": (X, ["a", "b", "c", "d"])}, "train y must be real numbers"),
        ({"test": (X, [0, 1, np.inf, 1])}, "test y has NaN or infinity"),
        ({"classes": -3}, "classes=-3"),
        ({"train": (None, Y)}, "train x and y must be arrays of the same number"),
        ({"train": (tf.data.Dataset.range(4), Y)}, "train x and y must be arrays of the same number"),
        ({"test": (X, Y, Y)}, "`test` must be a pair of arrays (x, y). Received: tuple of length 3."),
        ({"test": [X]}, "`test` must be a pair of arrays (x, y). Received: list of length 1."),
    ],
)
def test_data_rejects_arrays_that_do_not_fit(changes, message):
    with pytest.raises(ValueError) as raised:
        with_split(**changes)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("split", "received"),
    [
        (X, "ndarray"),
        (np.zeros([2, 4]), "ndarray"),
        (None, "NoneType"),
        ("xy", "str"),
        ({"x": X, "y": Y}, "dict"),
        (tf.zeros([2, 4]), "EagerTensor"),
        (((X, Y) for _ in range(2)), "generator"),
        (tf.data.Dataset.from_tensor_slices((X, Y)).batch(2), "_BatchDataset"),
        (tf.data.Dataset.from_tensor_slices((X, Y)).batch(3), "_BatchDataset"),
    ],
)
@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_data_rejects_splits_that_are_not_pairs(name, split, received):
    with pytest.raises(TypeError) as raised:
        with_split(**{name: split})
    assert str(raised.value) == (
        f"`{name}` must be a pair of arrays (x, y). Received: {received}. "
        "A tf.data.Dataset of batches goes to Solver.fit."
    )


def test_data_rejects_classes_that_are_not_an_integer():
    for classes in (1.5, True, "3"):
        with pytest.raises(TypeError, match=f"`classes` must be an integer.*classes={classes!r}"):
            with_split(classes=classes)
    assert with_split(classes=np.int64(3)).classes == 3


@pytest.mark.parametrize(
    "split", [(X, Y), [X, Y], (X.tolist(), tuple(Y)), Split(tf.constant(X), tf.constant(Y))]
)
def test_data_takes_pairs_of_whatever_numpy_reads(split):
    made = Data(split, split, split)
    assert made.sha256 == with_split().sha256
    assert (made.title, made.classes, made.input_shape) == ("arrays", 3, (2,))


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_stream_rejects_splits_that_are_not_datasets(name):
    dataset = tf.data.Dataset.from_tensor_slices((X, Y))
    splits = {"train": dataset, "validation": dataset, "test": dataset}
    options = dict(name="zeros", source="arrays", title="zeros", classes=3)
    assert data.Stream(**splits, **options).train is dataset
    for split, received in (((X, Y), "tuple"), (None, "NoneType"), (iter([]), "list_iterator")):
        with pytest.raises(TypeError) as raised:
            data.Stream(**{**splits, name: split}, **options)
        assert str(raised.value) == (
            f"`{name}` must be a tf.data.Dataset of examples (x, y). Received: {received}. "
            "Pass arrays to tfbn.data.Data instead."
        )


@pytest.mark.parametrize(
    ("batch_size", "error", "message"),
    [
        (2.0, TypeError, "must be an integer from 1 to 5, the training examples. Received: batch_size=2.0"),
        (True, TypeError, "must be an integer"),
        (0, ValueError, "must be an integer from 1 to 5"),
        (6, ValueError, "must be an integer from 1 to 5"),
    ],
)
def test_batch_size_is_an_integer_up_to_the_examples(batch_size, error, message):
    with pytest.raises(error, match=message):
        check_batch_size(batch_size, 5)
    assert check_batch_size(np.int32(5), 5) == check_batch_size(5) == 5


def test_sha256_depends_on_every_array():
    for name in ("train", "validation", "test"):
        for changed in ((X + 1, Y), (X, [0, 1, 2, 2])):
            assert with_split(**{name: changed}).sha256 != with_split().sha256


def test_one_hot_labels_give_the_number_of_classes():
    split = (X, np.eye(5)[Y])
    made = data.Data(train=split, validation=split, test=(X, Y))
    assert made.classes == 5
    assert made.train.y.tolist() == made.test.y.tolist() == Y


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([[0.5, 0.5, 0.0]], "must be one-hot, a single 1 a row. Row 0 is not"),
        ([[0, 0, 1], [0, 1, 1]], "must be one-hot, a single 1 a row. Row 1 is not"),
        ([[0, 1]], "must be integers [N] or one-hot [N, 3]. Received the shape (1, 2)"),
        ([[[0]]], "Received the shape (1, 1, 1)"),
        ([0.5], "must be integers from 0 to 2. Received fractions"),
        ([0, 3], "must be within 3 classes, 0 to 2. Received labels from 0 to 3"),
        ([-1, 2], "Received labels from -1 to 2"),
    ],
)
def test_labels_that_are_not_classes_are_rejected(y, message):
    with pytest.raises(ValueError) as raised:
        as_classes(np.array(y), 3, "test ")
    assert str(raised.value).startswith("test y ") and message in str(raised.value)


@pytest.mark.parametrize("y", [[2, 0, 1], [2.0, 0.0, 1.0], [[2], [0], [1]], np.eye(3)[[2, 0, 1]]])
def test_labels_of_each_form_become_classes(y):
    classes = as_classes(np.array(y), 3)
    assert classes.dtype == "int32" and classes.tolist() == [2, 0, 1]
