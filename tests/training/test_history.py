import json

import pytest

from tfbn.foundation import files, provenance
from tfbn.training import history


def test_strict_json():
    content = {"nan": float("nan"), "nested": [{"inf": float("inf")}, (1, 2.5)], "text": "é"}
    assert json.loads(files.to_json(content), parse_constant=pytest.fail) == {
        "nan": None,
        "nested": [{"inf": None}, [1, 2.5]],
        "text": "é",
    }


def test_files(tmp_path):
    records = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1e-20}]
    run = history.History(records, {"device": "cpu:0"})
    run.save(tmp_path / "history.json")
    assert history.History.load(tmp_path / "history.json") == run
    files.write_csv(tmp_path / "history.csv", records)
    rows = (tmp_path / "history.csv").read_text().splitlines()
    assert rows == ["epoch,loss", "1,0.30000000000000004", "2,1e-20"]
    assert history.History().history == {}


def test_versions_are_those_installed():
    import keras
    import tensorflow

    found = provenance.versions()
    assert found["tensorflow"] == tensorflow.__version__
    assert found["keras"] == keras.__version__
