"""The README's lines run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import conftest
import pytest

from tfbn.cli import main as cli
from tfbn.recipes import RECIPES

README = (conftest.ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def section(title):
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("block", blocks("python"))
def test_python(block, tmp_path):
    environment = dict(os.environ)
    if conftest.PREPARED.exists():
        environment["TFDS_DATA_DIR"] = str(conftest.PREPARED)
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if "compare(" in block:
        assert "P(improvement)" in done.stdout
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
