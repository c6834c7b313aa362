import json

import pytest

from tfbn.foundation.files import to_json, write_csv


def test_json_is_strict():
    content = {"nan": float("nan"), "nested": [{"inf": float("inf")}, (1, 2.5)], "text": "é"}
    assert json.loads(to_json(content), parse_constant=pytest.fail) == {
        "nan": None,
        "nested": [{"inf": None}, [1, 2.5]],
        "text": "é",
    }


def test_csv_has_a_header_and_every_digit(tmp_path):
    records = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1e-20}]
    write_csv(tmp_path / "history.csv", records)
    rows = (tmp_path / "history.csv").read_text().splitlines()
    assert rows == ["epoch,loss", "1,0.30000000000000004", "2,1e-20"]
