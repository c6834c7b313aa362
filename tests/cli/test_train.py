"""The commands run, recipes and report; compare is in test_compare_command.py."""

import json
import os
import re
import signal
import sys
import time

import conftest
import pytest
from test_main import OFFLINE, check_bad

from tfbn.cli import main as cli
from tfbn.recipes import RECIPES


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """Run the command here, offline, in a folder of its own; exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tfbn", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capfd.readouterr()

    return run


def test_recipes_lists_names_questions_and_costs(command):
    code, out, _ = command("recipes")
    assert code == 0
    for name, recipe in RECIPES.items():
        assert f"{name} " in out
        assert recipe.question in out
        assert recipe.cost in out


def test_recipes_shows_the_settings_of_a_recipe(command):
    code, out, _ = command("recipes", "depth")
    assert code == 0
    assert RECIPES["depth"].question in out
    assert "Source:" in out
    assert re.search(r"^learning_rate +0.01$", out, re.MULTILINE)


def test_run_trains_a_sweep_and_report_writes_its_page_again(command, tmp_path):
    options = {
        "--values": "0.1,he_normal",
        "--epochs": 2,
        "--train-size": 300,
        "--seed": 5,
        "--data-dir": "nothing",
    }
    flat = [part for option in options.items() for part in option]
    code, out, error = command("run", "mnist-init-scale", "--quick", "--out", "run", *flat)
    assert code == 0, error
    lines = out.splitlines()
    assert lines[0] == RECIPES["mnist-init-scale"].question
    assert lines[1].startswith("MNIST sample (5,000)")
    assert sum(line.startswith("seed 5 epoch  2") for line in lines) == 4, "a line a run"
    assert "One seed cannot separate an effect from noise" in out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert list(results["settings"]["arms"]) == [
        f"{series}-{value}" for value in (0.1, "he_normal") for series in ("batchnorm", "plain")
    ]
    assert results["compiled_programs"] == 2
    assert results["dataset"]["train"] == 300
    assert not (tmp_path / "run" / "models").exists()

    page = (tmp_path / "run" / "report.html").read_text()
    (tmp_path / "run" / "report.html").unlink()
    code, out, _ = command("report", "run")
    assert code == 0
    assert out.splitlines()[-1] == "run/report.html"
    assert (tmp_path / "run" / "report.html").read_text() == page
    before = (tmp_path / "run" / "results.json").read_text()
    code, out, _ = command("report", "run/results.json")
    assert (code, out.splitlines()[-1]) == (0, "run/report.html")
    assert (tmp_path / "run" / "results.json").read_text() == before


def test_run_writes_elsewhere_if_its_folder_appears_during_the_training(command, tmp_path, monkeypatch):
    from tfbn.recipes import run as experiment

    run = experiment.run

    def slowly(*arguments, **options):
        result = run(*arguments, **options)
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "mine").touch()
        return result

    monkeypatch.setattr(experiment, "run", slowly)
    code, out, error = command(
        "run", "wave", "--quick", "--epochs", 1, "--steps-per-epoch", 2, "--out", "run"
    )
    assert code == 0
    assert "run exists already" in error and len(error.splitlines()) == 1
    (other,) = [path for path in tmp_path.iterdir() if path.name != "run"]
    assert out.splitlines()[-1] == str(other)
    assert (other / "results.json").exists()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]


WAVE = ["run", "wave", "--quick", "--epochs", 2, "--steps-per-epoch", 2]


@pytest.fixture
def cut_off(command, monkeypatch):
    """Run the command, and interrupt it by Ctrl-C in the first epoch."""
    from tfbn.comparison.programs import Program

    def run(*arguments):
        def interrupt(*arguments):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)  # For it to arrive.
            return train_epoch(*arguments)

        train_epoch = Program._train_epoch
        signal.signal(signal.SIGINT, signal.default_int_handler)
        monkeypatch.setattr(Program, "_train_epoch", interrupt)
        code, *_ = command(*arguments)
        monkeypatch.setattr(Program, "_train_epoch", train_epoch)
        assert code == 130

    return run


def test_resume_without_out_takes_the_newest_run(command, cut_off, tmp_path):
    for name in ("first", "second"):
        cut_off(*WAVE, "--out", f"runs/wave-{name}")
    for name, age in (("first", 0), ("second", 1000)):
        for path in (tmp_path / "runs" / f"wave-{name}.unfinished").rglob("*"):
            os.utime(path, (time.time() - age,) * 2)
    code, out, error = command(*WAVE, "--resume")
    assert code == 0, error
    assert out.splitlines()[-1] == str(tmp_path / "runs" / "wave-first")
    folders = {path.name for path in (tmp_path / "runs").iterdir()}
    assert folders == {"wave-first", "wave-second", "wave-second.unfinished"}


def test_resume_shows_a_finished_run_of_the_same_settings_only(command, tmp_path):
    code, first, error = command(*WAVE, "--out", "run")
    assert code == 0, error
    code, out, _ = command(*WAVE, "--out", "run", "--resume")
    assert code == 0 and "Nothing to resume: the run in run is finished." in out
    table = [line for line in first.splitlines() if line.startswith("batchnorm ")]
    assert table and set(table) <= set(out.splitlines())
    for other in ([*WAVE, "--seed", 3], ["run", "side-by-side", "--quick"]):
        code, out, error = command(*other, "--out", "run", "--resume")
        assert code == 2 and not out
        assert error == "Error: run holds a finished run of another recipe or other settings.\n"


def test_resume_in_an_empty_folder_starts_from_the_beginning(command, tmp_path):
    (tmp_path / "run").mkdir()
    code, out, error = command(*WAVE, "--out", "run", "--resume")
    assert code == 0, error
    assert "Nothing to resume: the run starts from the beginning." in out
    assert (tmp_path / "run" / "results.json").exists()


def test_run_rejects_and_preserves_a_state_folder_that_holds_something_else(command, tmp_path):
    """The folder has the name of a training state."""
    (tmp_path / "run.unfinished").mkdir()
    (tmp_path / "run.unfinished" / "thesis.tex").touch()
    for more in ([], ["--resume"]):
        code, _, error = command(*WAVE, "--out", "run", *more)
        assert code == 2 and len(error.splitlines()) == 1
        assert "run.unfinished holds" in error
    assert [path.name for path in tmp_path.rglob("*")] == ["run.unfinished", "thesis.tex"]


BAD = [
    (["run", "depths"], "Unknown recipe 'depths'. Known: side-by-side"),
    (["run"], "Missing argument 'NAME'"),
    (["recipes", "depths"], "Unknown recipe 'depths'"),
    (["run", "wave", "--values", "1"], "`values` can only be given"),
    (["run", "depth", "--values", "3.5"], "depth=3.5"),
    (["run", "depth", "--values", ""], "depth=''"),
    (["run", "learning-rate", "--values", "high"], "learning_rate='high'"),
    (["run", "mnist-init-scale", "--values", "he_norml"], "he_norml"),
    (["run", "mnist-init-scale", "--values", "0.1,0.1"], "more than once"),
    (["run", "mnist-init-scale", "--train-size", "0"], "0 is not in the range"),
    (["run", "cifar-depth", "--data-dir", "nothing"], "Connect to the network once"),
    (["run", "convnet", "--dropout", "1"], "1.0 is not in the range"),
    (["report", "nowhere"], "nowhere holds no results.json"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value))
def test_command_rejects_bad_input_in_one_line_and_writes_nothing(command, tmp_path, arguments, message):
    code, _, error = command(*arguments)
    check_bad(code, error, message, tmp_path)


@pytest.mark.skipif(not conftest.PREPARED.exists(), reason="no prepared data sets beside the checkout")
def test_run_rejects_a_train_size_above_the_data_set(command, tmp_path):
    code, _, error = command(
        "run", "mnist-init-scale", "--train-size", 60000, "--data-dir", conftest.PREPARED
    )
    check_bad(code, error, "`train_size` must be an integer from 1 to 59,000", tmp_path)
