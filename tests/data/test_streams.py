"""Datasets that need not fit into memory are trained on as arrays are, and memory stays flat."""

import itertools
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from parameters import thorough

import tfbn
from tfbn.data.streams import BUFFER, Stream, batched, grouped_batches
from tfbn.training import feeds


def net(**options):
    return tfbn.Model(8, 3, hidden_dims=(6,), seed=1, **options)


def in_batches(data, sizes):
    """A dataset of batches of these sizes, one after the other."""
    x, y = data.train
    edges = np.cumsum([0, *sizes])
    parts = [(x[a:b], y[a:b]) for a, b in itertools.pairwise(edges)]
    spec = (tf.TensorSpec([None, 8], "float32"), tf.TensorSpec([None], "int32"))
    return tf.data.Dataset.from_generator(lambda: iter(parts), output_signature=spec)


EVEN, UNEVEN = [20] * 10 + [3], [5, 5, 5, 5, 5, 7, 5, 5, 5, 5, 5, 5, 5]


@pytest.mark.parametrize(
    ("steps", "sizes", "jit"),
    thorough(
        itertools.product([1, 3, 100], [EVEN, UNEVEN], [False, True]),
        lambda steps, sizes, jit: steps == 3 or (not jit and sizes is UNEVEN),
    ),
)
def test_fit_trains_on_batches_in_their_order(blobs, monkeypatch, steps, sizes, jit):
    """Against one step after the other."""
    monkeypatch.setattr(feeds, "STEPS_PER_CALL", steps)
    one, other = tfbn.Solver(net(), "momentum", jit=jit), tfbn.Solver(net(), "momentum", jit=jit)
    one.fit(in_batches(blobs, sizes), epochs=2)
    for _ in range(2):
        for x, y in in_batches(blobs, sizes):
            other.train(x.numpy(), y.numpy())
    for a, b in zip(one.model.variables, other.model.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_history_of_a_dataset_equals_that_of_the_arrays(blobs):
    dataset = tf.data.Dataset.from_tensor_slices(tuple(blobs.train)).batch(20)
    by_dataset = tfbn.Solver(net(), jit=False).fit(dataset, epochs=3, validation_data=dataset)
    options = dict(batch_size=20, shuffle=False, validation_data=tuple(blobs.train))
    by_arrays = tfbn.Solver(net(), jit=False).fit(*blobs.train, epochs=3, **options)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert by_dataset[name] == pytest.approx(by_arrays[name], rel=1e-5)


def test_error_names_the_offending_batch(blobs):
    x, y = blobs.train.x.copy(), blobs.train.y.copy()
    x[150, 2] = np.nan
    y[190] = 9
    solver_ = tfbn.Solver(net())
    for values, message in [
        ((x, blobs.train.y), "Batch 16: x has NaN or infinity in 1 of 10 examples, the first at 0"),
        ((blobs.train.x, y), "Batch 20: y .* labels from 0 to 9"),
    ]:
        dataset = tf.data.Dataset.from_tensor_slices(values).batch(10)
        with pytest.raises(ValueError, match=message):
            solver_.fit(dataset, epochs=1)
        with pytest.raises(ValueError, match=message):
            solver_.evaluate(dataset)


def test_fit_reads_shapes_from_the_batches(blobs):
    spec = (tf.TensorSpec([None, None], "float32"), tf.TensorSpec(None, "int32"))
    batches = tf.data.Dataset.from_generator(
        lambda: iter([tuple(array[:20] for array in blobs.train)] * 3), output_signature=spec
    )
    history = tfbn.Solver(net(), jit=False).fit(batches, epochs=1, validation_data=batches)
    x, y = (np.concatenate([array[:20]] * 3) for array in blobs.train)
    known = tfbn.Solver(net(), jit=False).fit(x, y, epochs=1, batch_size=20, shuffle=False)
    assert history["loss"] == pytest.approx(known["loss"], rel=1e-5)


def test_fit_rejects_batches_that_do_not_match(monkeypatch):
    """In number, as batches or in all; or in shape, which the dataset need not tell."""
    monkeypatch.setattr(feeds, "STEPS_PER_CALL", 2)
    good, three = (np.ones([4, 8], "float32"), np.zeros(4, "int32")), np.zeros(3, "int32")
    five = np.zeros(5, "int32")
    any_shape = (tf.TensorSpec(None, "float32"), tf.TensorSpec(None, "int32"))
    known = (tf.TensorSpec([None, 8], "float32"), tf.TensorSpec([None], "int32"))
    trained = tfbn.Solver(net(), jit=False)
    for spec, last, message in [
        (known, [(good[0], three)], "Batch 4: x and y must be arrays of the same number.*(4, 8) and (3,)"),
        (
            known,
            [(good[0], three), (good[0], five)],
            "Batch 4: x and y must be arrays of the same number.*(4, 8) and (3,)",
        ),
        (
            known,
            [(good[0][:0], five[:0])],
            "Batch 4: x and y must be arrays of the same number.*(0, 8) and (0,)",
        ),
        (any_shape, [(good[0][:, :7], good[1])], "Batch 4: x must have examples of the shape (8,).*(7,)"),
        (
            any_shape,
            [(good[0], three)],
            "Batch 4: x and y must be arrays of the same number.*(4, 8) and (3,)",
        ),
    ]:
        batches = tf.data.Dataset.from_generator(lambda: iter([good] * 3 + last), output_signature=spec)  # noqa: B023
        with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
            trained.fit(batches)


def test_fit_takes_batches_of_one_static_size(blobs):
    batches = tf.data.Dataset.from_tensor_slices(tuple(blobs.train)).batch(20, drop_remainder=True)
    x, y = (array[: len(array) // 20 * 20] for array in blobs.train)
    history = tfbn.Solver(net(), jit=False).fit(batches, validation_data=batches)
    known = tfbn.Solver(net(), jit=False).fit(x, y, batch_size=20, shuffle=False, validation_data=(x, y))
    for name in ("loss", "val_loss"):
        assert history[name] == pytest.approx(known[name], rel=1e-5)


def test_batched_shuffles_large_examples_in_smaller_blocks():
    """Of 1 MiB each 64 are."""
    images = tf.data.Dataset.range(200).map(lambda i: tf.fill([2**18], tf.cast(i, "float32")))
    seen = [int(batch[0, 0]) for batch in batched(images, 1, seed=0)]
    for start in range(0, 200, 64):
        block = list(range(start, min(start + 64, 200)))
        assert sorted(seen[start : start + 64]) == block != seen[start : start + 64]


def test_damaged_record_is_a_clear_error(tmp_path):
    path = str(tmp_path / "records")
    with tf.io.TFRecordWriter(path) as writer:
        for _ in range(100):
            writer.write(tf.io.serialize_tensor(tf.ones(8)).numpy())
    content = bytearray((tmp_path / "records").read_bytes())
    content[-100] ^= 255
    (tmp_path / "records").write_bytes(content)

    def parse(text):
        return tf.ensure_shape(tf.io.parse_tensor(text, tf.float32), [8]), 0

    dataset = tf.data.TFRecordDataset(path).map(parse).batch(10)
    with pytest.raises(ValueError, match=r"are damaged \(corrupted record at \d+\)\. Prepare them again"):
        tfbn.Solver(net()).fit(dataset)


def test_fit_takes_datasets_of_images_and_targets(rng):
    x = rng.normal(size=[30, 4, 4, 1]).astype("float32")
    targets = tf.data.Dataset.from_tensor_slices((x, x[:, 0, :2, 0])).batch(7)
    model = tfbn.Model((4, 4, 1), 2, (5,), conv_filters=(3,))
    history = tfbn.Solver(model, "adam", 0.05, loss="mse", metrics=()).fit(targets, epochs=20)
    assert history["loss"][-1] < history["loss"][0] / 2


@pytest.fixture
def stream(blobs):
    splits = {
        name: tf.data.Dataset.from_tensor_slices(tuple(split)) for name, split in blobs.splits().items()
    }
    return Stream(**splits, name="blobs", source="arrays", title="blobs", classes=3)


def test_stream_is_shuffled_by_seed_and_epoch(blobs, stream):
    def fit(**options):
        made = tfbn.Solver(net(), jit=False)
        return made.fit(stream, epochs=2, **options)["loss"], made.model.get_weights()

    (loss, weights), (again, same) = fit(seed=4), fit(seed=4)
    assert loss == again
    assert all((a == b).all() for a, b in zip(weights, same, strict=True))
    assert fit(seed=5)[0] != loss
    tf.random.set_seed(8)  # Which must not matter.
    assert fit(seed=4)[0] == loss
    orders = [
        [int(x) for x in batched(tf.data.Dataset.range(100), 100, seed, epoch).unbatch()]
        for seed, epoch in ((0, 1), (0, 2), (1, 1), (0, 1))
    ]
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert all(sorted(order) == list(range(100)) for order in orders)
    with pytest.raises(ValueError, match="come from the data itself when `x` is Stream"):
        tfbn.Solver(net()).fit(stream, validation_data=tuple(blobs.validation))
    unshuffled = tfbn.Solver(net(), jit=False).fit(stream, epochs=2, shuffle=False)["loss"]
    assert unshuffled == tfbn.Solver(net(), jit=False).fit(*blobs.train, epochs=2, shuffle=False)["loss"]


def test_stream_resumes_after_an_interruption(stream, tmp_path):
    whole = tfbn.Solver(net()).fit(stream, epochs=4, batch_size=20)
    tfbn.Solver(net()).fit(stream, epochs=2, batch_size=20, checkpoint_dir=tmp_path)
    resumed = tfbn.Solver(net()).fit(stream, epochs=4, batch_size=20, checkpoint_dir=tmp_path)
    for name in ("loss", "accuracy", "val_loss"):
        assert resumed[name] == whole[name]


def test_groups_are_bounded_by_all_their_bytes(blobs, monkeypatch):
    """Images as targets count, too, and what becomes int32."""
    monkeypatch.setattr(feeds, "BYTES_PER_CALL", 100_000)
    seen = []
    trained = tfbn.Solver(tfbn.Model(8, 600, (6,)), loss="mse", metrics=(), jit=False)
    monkeypatch.setattr(
        feeds, "grouped_batches", lambda *a, **options: seen.append(a[1]) or grouped_batches(*a, **options)
    )
    trained.fit(
        tf.data.Dataset.from_tensor_slices((np.ones([80, 8]), np.ones([80, 600], "uint8"))).batch(4)
    )
    assert seen == [100_000 // (4 * 4 * (8 + 600))]


def test_fit_rejects_datasets_that_give_no_pairs(blobs):
    x, y = blobs.train
    for values in ({"x": x, "y": y}, (x, y, y), (x, {"y": y}), x):
        with pytest.raises(ValueError, match=r"must give pairs.*as tensors. Received: .*TensorSpec"):
            tfbn.Solver(net()).fit(tf.data.Dataset.from_tensor_slices(values).batch(10))
    pairs = tf.data.Dataset.from_tensor_slices((x, y)).batch(10)
    for method in ("fit", "evaluate"):
        with pytest.raises(ValueError, match="comes from the dataset itself"):
            getattr(tfbn.Solver(net()), method)(pairs, y)


def test_fit_rejects_a_dataset_that_can_be_read_once(blobs):
    batches = iter([tuple(split[:20] for split in blobs.train)] * 2)
    spec = (tf.TensorSpec([None, 8], "float32"), tf.TensorSpec([None], "int32"))
    once = tf.data.Dataset.from_generator(lambda: batches, output_signature=spec)
    with pytest.raises(ValueError, match="begin anew each time"):
        tfbn.Solver(net()).fit(once, epochs=3)
    batches = iter([tuple(split[:20] for split in blobs.train)] * 2)
    with pytest.raises(ValueError, match="begin anew each time"):
        tfbn.Solver(net()).fit(*blobs.train, epochs=3, validation_data=once)


def test_fit_does_not_wait_at_the_end_of_an_iterator(blobs, monkeypatch):
    """Unless it is left before: the first batches, which tell the shapes, and where the training fails."""
    ended = []
    dataset = tf.data.Dataset.from_tensor_slices(tuple(blobs.train)).batch(10)
    main = threading.main_thread()
    monkeypatch.setattr(
        type(iter(dataset)),
        "__del__",
        lambda self: ended.append(threading.current_thread() is main),
        raising=False,
    )

    def end_of_all():
        for thread in threading.enumerate():
            if thread is not main and not thread.daemon:
                thread.join(100)
        found = sorted(ended)
        ended.clear()
        return found

    trained = tfbn.Solver(net(), jit=False)
    trained.fit(dataset, epochs=2, validation_data=dataset)
    assert end_of_all() == [False] * 4 + [True] * 2
    monkeypatch.setattr(trained._steps, "train", lambda *batch: 1 / 0)
    with pytest.raises(ZeroDivisionError) as kept:
        trained.fit(dataset)
    assert end_of_all() == [True] * 2
    assert kept.traceback  # Which would hold the iterator.


def test_source_has_one_reader_at_a_time():
    """Which reads ahead more slowly than the training goes on, past the first batch and past the cut."""
    readers = []

    def source():
        readers.append(sum(readers) + 1)
        try:
            for seconds in (0, 0.2, 0, 0.2):
                time.sleep(seconds)
                yield np.ones([4, 8], "float32"), np.zeros(4, "int32")
        finally:
            readers.append(-1)

    spec = (tf.TensorSpec([None, 8], "float32"), tf.TensorSpec([None], "int32"))
    ahead = tf.data.Dataset.from_generator(source, output_signature=spec).prefetch(4).take(3)
    trained = tfbn.Solver(net(), jit=False)
    trained.fit(ahead, epochs=2, validation_data=ahead)
    assert readers == [1, -1] * 6


def test_compare_rejects_a_stream(stream):
    with pytest.raises(TypeError, match=r"in memory: tfbn\.data\.load\(name\).*Received: Stream"):
        tfbn.compare({"a": net}, stream)


MEMORY = """
import resource, tensorflow as tf, tfbn

def examples(count):
    def batch(index):
        x = tf.random.stateless_uniform([100, 784], [1, index])
        return x, tf.cast(x[:, 0] * 10, "int32")
    return tf.data.Dataset.range(count // 100).map(batch)

solver = tfbn.Solver(tfbn.Model(784, 10, (32,)))
for count in (100_000, 1_000_000):
    solver.fit(examples(count), epochs=1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_stays_flat_over_a_dataset(python):
    """3 GB of examples in hardly more than a tenth of them: the peak, in KiB."""
    few, many = map(int, python(MEMORY).split())
    assert many - few < 300 * 1024
    assert BUFFER * 784 * 4 < 50 * 2**20, "what a shuffled stream holds"
