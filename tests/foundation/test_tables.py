"""Text tables keep to their width, and every word and number stays whole."""

import pytest

from tfbn.foundation.tables import text_table

HEADER = ["", "batchnorm", "plain", "difference", "95 % interval", "seeds better"]
ROWS = [
    ["test accuracy", "0.9700", "0.9500", "+0.0200", "+0.0133 to +0.0267", "6 of 6"],
    ["mean validation accuracy over the sweep", "0.1234", "0.5", "-0.3766", "-0.5 to -0.2", "10 of 10"],
]


@pytest.mark.parametrize("width", [66, 70, 80, 100, 120])
def test_table_keeps_to_its_width_and_breaks_no_word(width):
    lines = text_table(HEADER, ROWS, numeric=range(1, 6), width=width).splitlines()
    assert max(map(len, lines)) <= width
    words = sorted(word for line in lines for word in line.split() if set(word) != {"-"})
    assert words == sorted(word for row in (HEADER, *ROWS) for cell in row for word in cell.split())


def test_table_is_wider_than_asked_where_a_word_is():
    lines = text_table(["name"], [["a-very-long-name"]], width=10).splitlines()
    assert lines == ["name", "-" * 16, "a-very-long-name"]


def test_table_keeps_to_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    assert max(map(len, text_table(HEADER, ROWS).splitlines())) <= 72


def test_table_without_rows_is_its_header():
    assert text_table(["arm", "seeds"], []) == "arm  seeds\n----------"
