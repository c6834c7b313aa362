"""No timing is asserted: that peers do the same work, and the arithmetic of the table."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

import tfbn
from tfbn.bench import layer as bench_layer
from tfbn.bench import timing

CASES = [
    (((8, 6), -1), "training", "graph", "float32", 0.0),
    (((4, 5, 5, 3), -1), "inference", "XLA", "float32", 0.0),
    (((4, 3, 5, 5), 1), "training", "graph", "float32", 5.0),
    (((4, 5, 5, 3), -1), "training", "XLA", "mixed_bfloat16", 0.0),
]


def test_rows_and_table():
    told = []
    result = bench_layer.layer(repeats=1, cases=CASES, on_case=told.append)
    assert told[2].endswith("training graph mean 5") and told[3].endswith("bfloat16")
    table = bench_layer.table(result)
    for row, words in zip(result["rows"], told, strict=True):
        times = row["milliseconds"]
        assert set(times) - {"torch"} == {"tfbn", "keras", "copy"}
        assert min(times.values()) > 0
        assert row["ratio"] == {name: pytest.approx(time / times["tfbn"]) for name, time in times.items()}
        assert f"{words:<43}{times['tfbn']:>7.2f}{times['keras']:>7.2f}" in table
    assert "copy" in table and max(map(len, table.splitlines())) < 100


def test_on_the_device_it_is_told_and_until_that_is_done(monkeypatch):
    """The second CPU stands for a GPU; what runs there is waited for once a run."""
    places, waited = set(), []
    step_of = bench_layer._step

    def watched(*arguments):
        step = step_of(*arguments)

        def run(*inputs):
            outputs = step(*inputs)
            places.update(tensor.device[-5:] for tensor in (*inputs, *outputs))
            return outputs

        return run

    monkeypatch.setattr(bench_layer, "_step", watched)
    monkeypatch.setattr(tf.test.experimental, "sync_devices", lambda: waited.append(1))
    result = bench_layer.layer(repeats=2, device="cpu:1", cases=CASES[:2])
    assert places == {"CPU:1"}
    assert len(waited) == 2 * 3 * 3, "cases, peers and runs"
    assert result["device"].startswith("cpu:1 (")


def test_where_xla_fails_its_cases_are_left_out(monkeypatch):
    monkeypatch.setattr(bench_layer, "xla_works", lambda device: False)
    rows = bench_layer.layer(repeats=1, cases=CASES)["rows"]
    assert [row["mode"] for row in rows] == ["graph", "graph"]


@pytest.mark.parametrize("mean", [0.0, 5.0])
@pytest.mark.parametrize("mode", ["graph", "XLA"])
def test_keras_and_ours_do_the_same_work(rng, mode, mean):
    x, dy = (rng.normal(size=[64, 3]).astype("float32") for _ in range(2))
    x += np.float32(mean)
    results = [
        bench_layer._step(kind, [64, 3], -1, "training", mode, "float32", mean)(x, dy)
        for kind in (tfbn.BatchNormalization, keras.layers.BatchNormalization)
    ]
    assert len(results[0]) == 4  # the output, dx, dgamma, dbeta
    for ours, theirs in zip(*results, strict=True):
        assert reference.error(ours, theirs) < 1e-4


def test_pytorch_does_the_same_work(rng):
    pytest.importorskip("torch")
    x, dy = (rng.normal(size=[64, 4, 3]).astype("float32") for _ in range(2))
    theirs = bench_layer._torch(x, dy, -1, "training", 0.0, calls=1)()
    step = bench_layer._step(tfbn.BatchNormalization, [64, 4, 3], -1, "training", "graph", "float32", 0.0)
    assert float(step(tf.constant(x), tf.constant(dy))[1].numpy().ravel()[0]) == pytest.approx(
        theirs, rel=1e-3
    )


def test_pytorch_of_a_gpu_is_left_out_where_it_sees_none(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert timing.torch_device("cpu:1") == "cpu"
    assert timing.torch_device("gpu:0") == "cuda:0"
    assert timing.torch_device("gpu:1") is None


def test_bad_arguments():
    with pytest.raises(ValueError, match="repeats=0"):
        bench_layer.layer(repeats=0)
