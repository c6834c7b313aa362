"""No timing is asserted: that every peer trains, and the arithmetic of the table."""

import keras
import pytest

from tfbn.bench import solver as bench_solver


def test_every_peer_trains_the_same_nets():
    first = {row["name"]: row["loss"] for row in bench_solver.solver(steps=20, repeats=1)["rows"]}
    result = bench_solver.solver(steps=200, repeats=1)
    assert list(first)[:3] == ["tfbn", "keras.Model.fit", "keras.Model.fit, XLA, 200 steps a call"]
    for row in result["rows"]:
        assert row["loss"] < first[row["name"]], "more steps, lower loss"
        assert row["loss"] == pytest.approx(result["rows"][0]["loss"], rel=0.2)
        assert row["fastest"] <= row["microseconds"] <= row["slowest"]
        assert row["epochs_per_second"] == pytest.approx(1e6 / row["microseconds"] / 1718)
    assert result["rows"][0]["ratio"] == 1
    assert result["rows"][1]["ratio"] == pytest.approx(
        result["rows"][1]["microseconds"] / result["rows"][0]["microseconds"]
    )
    for row in result["rows"]:
        assert f"{row['microseconds']:.0f}" in bench_solver.table(result)


def test_peers_on_a_stream():
    result = bench_solver.solver(steps=50, repeats=1, stream=True)
    names = ["tfbn", "keras.Model.fit", "keras.Model.fit, XLA, 200 steps a call"]
    assert [row["name"] for row in result["rows"]] == names
    for row in result["rows"]:
        assert row["loss"] == pytest.approx(result["rows"][0]["loss"], rel=0.2)
    assert "32 of a tf.data.Dataset, on cpu:0" in bench_solver.table(result)


def test_on_the_device_it_is_told(monkeypatch):
    """The second CPU stands for a GPU."""
    nets = []

    class Watched(keras.Sequential):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            nets.append(self)

    ours = bench_solver._ours
    monkeypatch.setattr(bench_solver.keras, "Sequential", Watched)
    monkeypatch.setattr(bench_solver, "_ours", lambda *given: nets.append(given[-1]) or ours(*given))
    monkeypatch.setattr(bench_solver.timing, "is_installed", lambda name: False)
    result = bench_solver.solver(steps=5, repeats=1, device="cpu:1")
    assert nets.pop(0) == "cpu:1"
    places = {v.value.device[-5:] for net in nets for v in (*net.variables, *net.optimizer.variables)}
    assert places == {"CPU:1"}
    assert result["device"].startswith("cpu:1 (")


def test_peers_that_the_device_cannot_run_are_left_out(monkeypatch):
    def alternate(peers, repeats, on_run):
        return {name: [1.0] for name in peers}, dict.fromkeys(peers, 0.0)

    monkeypatch.setattr(bench_solver.timing, "alternate", alternate)
    monkeypatch.setattr(bench_solver.timing, "torch_device", lambda device: None)
    monkeypatch.setattr(bench_solver, "_jax_device", lambda device: None)
    monkeypatch.setattr(bench_solver, "xla_works", lambda device: False)
    rows = bench_solver.solver(steps=5, repeats=1)["rows"]
    assert [row["name"] for row in rows] == ["tfbn", "keras.Model.fit"]


def test_jax_of_a_gpu_is_left_out_where_it_sees_none():
    jax = pytest.importorskip("jax")
    assert bench_solver._jax_device("cpu:1") == jax.devices("cpu")[0]
    assert bench_solver._jax_device("gpu:99") is None


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 1719}, {"repeats": 0}])
def test_bad_arguments(options):
    with pytest.raises(ValueError, match="from 1 to 1718"):
        bench_solver.solver(**options)
