"""The sentences and the table of a verdict."""

import math

import pytest
from verdict_scores import deciding, side_by_side, sweep

from tfbn.verdict.judge import judge

SITUATIONS = {
    "better": (
        {"batchnorm": [0.97, 0.96, 0.98, 0.97, 0.96, 0.98], "plain": [0.95] * 6},
        "With batchnorm the test accuracy is higher than with plain: by 0.0200 on average (95 % interval "
        "0.0133 to 0.0267), better with 6 of 6 seeds.",
    ),
    "worse": (
        {"batchnorm": [0.95] * 6, "plain": [0.97, 0.96, 0.98, 0.97, 0.96, 0.98]},
        "With batchnorm the test accuracy is lower than with plain: by 0.0200 on average (95 % interval "
        "0.0133 to 0.0267), worse with 6 of 6 seeds.",
    ),
    "none": (
        {"batchnorm": [0.97, 0.96, 0.98, 0.97, 0.96, 0.98], "plain": [0.97] * 6},
        "No evidence of a difference in test accuracy: batchnorm minus plain is +0.0000 on average (95 % "
        "interval -0.0067 to +0.0067), better with 2 of 6 seeds, equal with 2.",
    ),
    "the interval alone": (
        {"batchnorm": [0.5, 0.5, 0.5, 0.5, 0.5, -0.2], "plain": [0.0] * 6},
        "No evidence of a difference in test accuracy: batchnorm minus plain is +0.3833 on average (95 % "
        "interval +0.1500 to +0.5000), better with 5 of 6 seeds. Chance alone makes one as large 1 time "
        "in 16.",
    ),
    "three agree": (
        {"batchnorm": [0.9, 0.8, 0.94], "plain": [0.8, 0.75, 0.9]},
        "In test accuracy batchnorm is better than plain with all 3 seeds, by 0.0633 on average (95 % "
        "interval 0.0400 to 0.1000). By chance alone this happens 1 time in 4: no evidence of a "
        "difference yet, which takes 6 seeds.",
    ),
    "two agree": (
        {"batchnorm": [0.7, 0.6], "plain": [0.8, 0.65]},
        "In test accuracy batchnorm is worse than plain with both seeds, by 0.0750 on average (95 % "
        "interval 0.0500 to 0.1000). By chance alone this happens 1 time in 2: no evidence of a "
        "difference yet, which takes 6 seeds.",
    ),
    "three disagree": (
        {"batchnorm": [0.9, 0.8, 0.9], "plain": [0.8, 0.9, 0.85]},
        "No evidence of a difference in test accuracy: batchnorm minus plain is +0.0167 on average (95 % "
        "interval -0.1000 to +0.1000), better with 2 of 3 seeds. Fewer than 6 seeds cannot give any "
        "evidence.",
    ),
    "one": (
        {"batchnorm": [0.9], "plain": [0.8]},
        "One seed cannot separate an effect from noise: batchnorm minus plain is +0.1000 in test accuracy. "
        "Run 6 seeds or more.",
    ),
    "no pair": (
        {"batchnorm": [math.nan, 0.9], "plain": [0.8]},
        "No seed finished with both batchnorm and plain: nothing to compare.",
    ),
    "alone": ({"batchnorm": [0.9, 0.8]}, "There is only batchnorm: nothing to compare."),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_sentence_of_each_situation(situation):
    scores, expected = SITUATIONS[situation]
    verdict = judge(*side_by_side(**scores))
    assert verdict.sentence() == expected
    assert verdict.text().startswith(expected)
    if len(scores) > 1:
        assert "seeds better" in verdict.text()
        (comparison,) = verdict.to_dict()["comparisons"]
        assert comparison["sentence"] == expected


def test_difference_that_float32_hardly_resolves_is_no_evidence():
    verdict = judge(*side_by_side(batchnorm=[0.5 + 1e-7] * 6, plain=[0.5] * 6))
    assert deciding(verdict)[1].wins == 6
    assert verdict.sentence().startswith("No evidence")


def test_table_by_hand(monkeypatch):
    monkeypatch.setenv("COLUMNS", "130")
    verdict = judge(*side_by_side(batchnorm=[0.97, 0.96, 0.98, 0.97, 0.96, 0.98], plain=[0.95] * 6))
    _, table, legend = verdict.text().split("\n\n")
    _, rule, first, *_, epochs = (line.split("  ") for line in table.splitlines())
    cells = [cell.strip() for cell in first if cell.strip()]
    assert cells == [
        "test accuracy",
        "0.9700",
        "0.9500",
        "+0.0200",
        "+0.0133 to +0.0267",
        "0.0312",
        "1.00",
        "6 of 6",
    ]
    assert epochs[0] == "epochs to validation accuracy 0.95"
    assert len(rule[0]) == max(map(len, table.splitlines()))
    assert "Only the first row of a table decides" in legend
    assert "P(better): P(improvement), " in legend
    assert verdict.text().isascii()
    assert "-0.0000" not in judge(*side_by_side(batchnorm=[0.9, 0.8], plain=[0.9, 0.80001])).text()


TABLES = {
    "accuracies": lambda: side_by_side(batchnorm=[0.97, 0.96, 0.98, 0.97, 0.96, 0.98], plain=[0.95] * 6),
    "a sweep": lambda: sweep(batchnorm=[[0.97, 0.96]] * 3, plain=[[0.3, 0.4]] * 3),
    "losses": lambda: without_accuracies(*side_by_side(batchnorm=[-1e3, 0.96], plain=[0.9513, 0.9997])),
}


def without_accuracies(records, test, *rest):
    return (
        [{**record, "validation_accuracy": None} for record in records],
        [{**run, "accuracy": None} for run in test],
        *rest,
    )


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("kind", TABLES)
def test_table_fits_the_width_and_breaks_no_word(kind, width, monkeypatch):
    verdict = judge(*TABLES[kind]())
    monkeypatch.setenv("COLUMNS", "300")
    _, wide, legend = verdict.text().split("\n\n")
    monkeypatch.setenv("COLUMNS", str(width))
    _, table, _ = verdict.text().split("\n\n")
    header, _, *rows = wide.splitlines()[:6]
    lines = table.splitlines()[: -len(wide.splitlines()[6:]) or None]
    assert max(map(len, [*lines, *legend.splitlines()])) <= width
    words = [word for line in lines if set(line) != {"-"} for word in line.split()]
    assert sorted(words) == sorted(" ".join([header, *rows]).split())
