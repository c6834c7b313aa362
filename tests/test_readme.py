"""The README's lines run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import conftest
import pytest

from tfbn import cli
from tfbn.recipes import MODULES, RECIPES

README = (conftest.ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


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
    floors = re.findall(r"`(\w+\.py)`", README)
    files = (conftest.ROOT / "tfbn").rglob("[a-z]*.py")
    recipes = {module.__file__ for module in MODULES}
    assert {path.name for path in files if str(path) not in recipes} == set(floors)


def test_the_recipes_are_those_that_there_are():
    assert re.findall(r"^\| `([a-z0-9-]+)` \|", README, re.MULTILINE) == list(RECIPES)


def test_ci_runs_the_test_command_that_it_names():
    (line,) = [line for line in README.splitlines() if "'.[offline,test]'" in line]
    assert ".venv/bin/pytest" in line
    assert "'.[offline,test]'" in (conftest.ROOT / ".ci" / "run").read_text()
    assert Path(conftest.ROOT / ".ci" / "run").stat().st_mode & 0o111
