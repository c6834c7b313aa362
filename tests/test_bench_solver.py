"""No timing is asserted: that every peer trains, and the arithmetic of the table."""

import pytest

from tfbn import bench_solver


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


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 1719}, {"repeats": 0}])
def test_bad_arguments(options):
    with pytest.raises(ValueError, match="from 1 to 1718"):
        bench_solver.solver(**options)
