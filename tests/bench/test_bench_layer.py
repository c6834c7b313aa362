"""All peers of `bench.layer` do the same work, and its table is right; no time is asserted."""

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


def test_rows_hold_times_and_ratios_and_the_table_shows_them():
    descriptions = []
    result = bench_layer.layer(repeats=1, cases=CASES, on_case=descriptions.append)
    assert descriptions[2] == "4x3x5x5 first training graph mean 5"
    assert descriptions[3].endswith("bfloat16")
    title, header, _, *lines = bench_layer.table(result).splitlines()
    assert title.startswith("One layer, milliseconds, on cpu:0 (")
    assert header.split() == ["shape", "case", "tfbn", "Keras", "torch", "copy", "Keras/tfbn", "torch/tfbn"]
    for row, words, line in zip(result["rows"], descriptions, lines, strict=True):
        times = row["milliseconds"]
        assert set(times) - {"torch"} == {"tfbn", "keras", "copy"}
        assert min(times.values()) > 0
        assert row["ratio"] == {name: pytest.approx(time / times["tfbn"]) for name, time in times.items()}
        cells = [*words.split(), f"{times['tfbn']:.2f}", f"{times['keras']:.2f}"]
        assert line.split()[: len(cells)] == cells
        assert f"{row['ratio']['keras']:.2f}" in line


@pytest.mark.parametrize("columns", ["80", "100"])
def test_table_fits_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    times = dict.fromkeys(("tfbn", "keras", "torch", "copy"), 123.456)
    names = ("shape", "axis", "run", "mode", "dtype", "mean")
    rows = [
        dict(zip(names, (*shape, *rest), strict=True)) | {"milliseconds": times, "ratio": times}
        for shape, *rest in bench_layer.CASES
    ]
    device = "gpu:0 (NVIDIA H100 80GB HBM3, of a machine with a long name)"
    table = bench_layer.table({"rows": rows, "repeats": 7, "device": device})
    assert max(map(len, table.splitlines()[2:])) <= int(columns)
    assert max(map(len, table.splitlines())) <= 100


def test_layer_runs_on_the_named_device_and_each_run_waits_for_it(monkeypatch):
    """The second CPU stands for a GPU."""
    places, waits = set(), []
    step_of = bench_layer._step

    def watched(*arguments):
        step = step_of(*arguments)

        def run(*inputs):
            outputs = step(*inputs)
            places.update(tensor.device[-5:] for tensor in (*inputs, *outputs))
            return outputs

        return run

    monkeypatch.setattr(bench_layer, "_step", watched)
    monkeypatch.setattr(tf.test.experimental, "sync_devices", lambda: waits.append(1))
    result = bench_layer.layer(repeats=2, device="cpu:1", cases=CASES[:2])
    assert places == {"CPU:1"}
    assert len(waits) == 2 * 3 * 3, "cases, peers and runs"
    assert result["device"].startswith("cpu:1 (")


def test_cases_of_xla_are_left_out_where_xla_fails(monkeypatch):
    monkeypatch.setattr(bench_layer, "xla_works", lambda device: False)
    rows = bench_layer.layer(repeats=1, cases=CASES)["rows"]
    assert [row["mode"] for row in rows] == ["graph", "graph"]


@pytest.mark.parametrize("mean", [0.0, 5.0])
@pytest.mark.parametrize("mode", ["graph", "XLA"])
def test_keras_layer_does_the_same_work_as_ours(rng, mode, mean):
    x, dy = (rng.normal(size=[64, 3]).astype("float32") for _ in range(2))
    x += np.float32(mean)
    results = [
        bench_layer._step(kind, [64, 3], -1, "training", mode, "float32", mean)(x, dy)
        for kind in (tfbn.BatchNormalization, keras.layers.BatchNormalization)
    ]
    assert len(results[0]) == 4  # the output, dx, dgamma, dbeta
    for ours, theirs in zip(*results, strict=True):
        assert reference.error(ours, theirs) < 1e-4


def test_pytorch_layer_does_the_same_work_as_ours(rng):
    pytest.importorskip("torch")
    x, dy = (rng.normal(size=[64, 4, 3]).astype("float32") for _ in range(2))
    theirs = bench_layer._torch(x, dy, -1, "training", 0.0, calls=1)()
    step = bench_layer._step(tfbn.BatchNormalization, [64, 4, 3], -1, "training", "graph", "float32", 0.0)
    assert float(step(tf.constant(x), tf.constant(dy))[1].numpy().ravel()[0]) == pytest.approx(
        theirs, rel=1e-3
    )


def test_torch_device_is_none_for_a_gpu_that_pytorch_does_not_see(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert timing.torch_device("cpu:1") == "cpu"
    assert timing.torch_device("gpu:0") == "cuda:0"
    assert timing.torch_device("gpu:1") is None


@pytest.mark.parametrize(("repeats", "error"), [(0, ValueError), (True, TypeError), (1.5, TypeError)])
def test_layer_rejects_repeats_that_are_not_a_positive_integer(repeats, error):
    with pytest.raises(
        error, match=f"`repeats` must be an integer, 1 or more. Received: repeats={repeats}"
    ):
        bench_layer.layer(repeats=repeats)
