"""The README's lines run as they stand."""

import re
from pathlib import Path

import conftest
import pytest
import tensorflow as tf

from tfbn.cli import main as cli
from tfbn.recipes import RECIPES

README = (conftest.ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def section(title):
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("block", blocks("python"))
def test_python(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", "nothing")  # so that the sample stands in for MNIST
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    if "MirroredStrategy()" in block:  # Of the one device that most machines have.
        one = tf.distribute.MirroredStrategy(["cpu:0"])
        monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: one)
    exec(block, {"__name__": "__main__"})
    if "compare(" in block:
        assert "P(improvement)" in capsys.readouterr().out
    if "result.save(" in block:
        assert (tmp_path / "runs" / "mine" / "results.json").exists()


def test_commands_and_their_options_exist():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [match for line in lines for match in re.findall(r"\btfbn (\w+)([^&#]*)", line)]
    assert len(commands) >= 4
    for name, rest in commands:
        known = {option for parameter in cli.cli.commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= known


def test_files_that_it_names_exist():
    for name in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (conftest.ROOT / name).exists(), name


def test_every_room_is_listed():
    rooms = re.findall(r"^\| `(\w+(?:\.py)?)` \|", section("How it works"), re.MULTILINE)
    places = {path.name for path in (conftest.ROOT / "tfbn").glob("[a-z]*") if path.name != "py.typed"}
    assert places == set(rooms)


def test_the_recipes_are_those_that_there_are():
    assert re.findall(r"^\| `([a-z0-9-]+)` \|", section("The classic experiments"), re.MULTILINE) == list(
        RECIPES
    )


def test_ci_runs_the_test_command_that_it_names():
    (line,) = [line for line in README.splitlines() if "'.[offline,test]'" in line]
    assert ".venv/bin/pytest" in line
    assert "'.[offline,test]'" in (conftest.ROOT / ".ci" / "run").read_text()
    assert Path(conftest.ROOT / ".ci" / "run").stat().st_mode & 0o111
