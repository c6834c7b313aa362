"""The help of every command: defaults, whole descriptions, examples, and how fast it loads."""

import shlex
import subprocess
import sys
from importlib.metadata import version

import click
import pytest
from click.testing import CliRunner

from tfbn.cli.main import cli


def commands(command=cli, path=("tfbn",)):
    """All commands and groups, by the words that call them."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


COMMANDS = dict(commands())


def help_of(path, columns=100):
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(cli, [*path[1:], "--help"], prog_name="tfbn")
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_of_every_option_names_its_default(path):
    command = COMMANDS[path]
    context = click.Context(command, info_name=path[-1], show_default=True)
    for option in command.params:
        if isinstance(option, click.Option) and not option.is_eager:
            words = option.get_help_record(context)[1]
            assert "[default: " in words or option.required, option.name
            assert words[0] != "[", "an option without a description"


def test_help_names_the_defaults_in_force():
    compare, run, export, recalibrate = (
        " ".join(help_of(("tfbn", name)).split()) for name in ("compare", "run", "export", "recalibrate")
    )
    assert "Learning rate of the optimizer. [default: 0.01; x>=0]" in compare
    assert "Learning rate of the optimizer. [default: (the recipe's); x>=0]" in run
    assert "Fold batch norm layers first. [default: fold]" in export
    assert recalibrate.count("[default: (off)]") == 4


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize(
    "path", [path for path, command in COMMANDS.items() if hasattr(command, "commands")]
)
def test_help_of_a_group_cuts_no_description_off(path, columns):
    listing = help_of(path, columns).split("Commands:\n")[1].split("\n\n")[0].splitlines()
    descriptions = dict(line.split(maxsplit=1) for line in listing)
    assert descriptions.keys() == COMMANDS[path].commands.keys()
    for name, command in COMMANDS[path].commands.items():
        assert descriptions[name] == command.help.split("\n\n")[0]


@pytest.mark.parametrize("columns", [60, 100])
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_ends_with_an_example_that_the_command_accepts(path, columns):
    *_, gap, last = help_of(path, columns).splitlines()
    assert gap == "" and last.startswith(f"  Example: {' '.join(path)} ")
    command, context = cli, None
    *_, words = last.partition("tfbn ")
    words = shlex.split(words)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    context = command.make_context("tfbn", words)  # Raises for what is not an option or a value of it.
    assert not context.args


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_neither_tensorflow_nor_keras_nor_numpy(tmp_path, option):
    script = f"""
import sys
sys.argv = ["tfbn", {option!r}]
from tfbn.cli.main import main
try:
    main()
finally:
    print(sorted({{"tensorflow", "keras", "numpy"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    *lines, loaded = done.stdout.splitlines()
    assert loaded == "[]", done.stderr
    assert {"--help": "compare", "--version": version("tfbn")}[option] in "\n".join(lines)
