"""Every peer of `bench.solver` trains, and its table is right; no time is asserted."""

import math

import keras
import pytest

from tfbn.bench import solver as bench_solver
from tfbn.bench import timing


def test_peers_train_the_same_nets_to_the_same_loss():
    result = bench_solver.solver(steps=200, repeats=1)
    names = [row["name"] for row in result["rows"]]
    assert names[:3] == ["tfbn", "keras.Model.fit", "keras.Model.fit, XLA, 200 steps a call"]
    for row in result["rows"]:
        assert row["loss"] < 0.9 * math.log(10), "better than chance"
        assert row["loss"] == pytest.approx(result["rows"][0]["loss"], rel=0.2)
        assert row["fastest"] <= row["microseconds"] <= row["slowest"]
        assert row["epochs_per_second"] == pytest.approx(1e6 / row["microseconds"] / 1718)
    assert result["rows"][0]["ratio"] == 1
    assert result["rows"][1]["ratio"] == pytest.approx(
        result["rows"][1]["microseconds"] / result["rows"][0]["microseconds"]
    )
    table = bench_solver.table(result)
    assert table.startswith("A training step of both nets, batch 32, on cpu:0 (")
    assert ["µs", "fastest", "slowest", "epochs/s", "x", "ours"] in [
        line.split() for line in table.splitlines()
    ]
    for row in result["rows"]:
        (line,) = [line for line in table.splitlines() if line.startswith(f"{row['name']}  ")]
        times = [f"{row[key]:.0f}" for key in ("microseconds", "fastest", "slowest")]
        cells = [*times, f"{row['epochs_per_second']:.2f}", f"{row['ratio']:.2f}"]
        assert line.removeprefix(row["name"]).split() == cells


def test_stream_trains_tfbn_and_keras_on_one_dataset():
    result = bench_solver.solver(steps=50, repeats=1, stream=True)
    names = ["tfbn", "keras.Model.fit", "keras.Model.fit, XLA, 200 steps a call"]
    assert [row["name"] for row in result["rows"]] == names
    for row in result["rows"]:
        assert row["loss"] == pytest.approx(result["rows"][0]["loss"], rel=0.2)
    table = bench_solver.table(result)
    assert "32 of a tf.data.Dataset, on cpu:0" in table
    assert max(map(len, table.splitlines())) <= 100


def test_peers_run_on_the_named_device(monkeypatch):
    """The second CPU stands for a GPU."""
    nets = []

    class Watched(keras.Sequential):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            nets.append(self)

    ours = bench_solver._tfbn_epoch
    monkeypatch.setattr(keras, "Sequential", Watched)
    monkeypatch.setattr(bench_solver, "_tfbn_epoch", lambda *data: nets.append(data[-1]) or ours(*data))
    monkeypatch.setattr(timing, "torch_device", lambda device: None)
    monkeypatch.setattr(bench_solver, "_jax_device", lambda device: None)
    result = bench_solver.solver(steps=5, repeats=1, device="cpu:1")
    assert nets.pop(0) == "cpu:1"
    places = {v.value.device[-5:] for net in nets for v in (*net.variables, *net.optimizer.variables)}
    assert places == {"CPU:1"}
    assert result["device"].startswith("cpu:1 (")


def test_peers_are_left_out_where_the_device_does_not_run_them(monkeypatch):
    def alternate(peers, repeats, on_run):
        return {name: [1.0] for name in peers}, dict.fromkeys(peers, 0.0)

    monkeypatch.setattr(timing, "alternate", alternate)
    monkeypatch.setattr(timing, "torch_device", lambda device: None)
    monkeypatch.setattr(bench_solver, "_jax_device", lambda device: None)
    monkeypatch.setattr(bench_solver, "xla_works", lambda device: False)
    rows = bench_solver.solver(steps=5, repeats=1)["rows"]
    assert [row["name"] for row in rows] == ["tfbn", "keras.Model.fit"]


def test_jax_device_is_none_for_a_gpu_that_jax_does_not_see():
    jax = pytest.importorskip("jax")
    assert bench_solver._jax_device("cpu:1") == jax.devices("cpu")[0]
    assert bench_solver._jax_device("gpu:99") is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "from 1 to 1,718. Received: steps=0"),
        ({"steps": 1719}, ValueError, "from 1 to 1,718. Received: steps=1719"),
        ({"repeats": 0}, ValueError, "1 or more. Received: repeats=0"),
        ({"steps": 1.5}, TypeError, "Received: steps=1.5"),
    ],
)
def test_solver_rejects_steps_and_repeats_outside_the_limits(options, error, message):
    with pytest.raises(error, match=message):
        bench_solver.solver(**options)
