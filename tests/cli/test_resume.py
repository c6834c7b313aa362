"""Interrupted commands, as processes: nothing is lost, and --resume gives the same result."""

import json
import operator
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from test_main import COMMAND, OFFLINE, environment, in_process

pytestmark = pytest.mark.slow

OPTIONS = ["--data-dir", "nothing", "--epochs", 3, "--seeds", 2, "--hidden", 8, "--seed", 5]


def start(folder, *arguments, before=(), **options):
    return subprocess.Popen(
        [*before, COMMAND, *map(str, arguments)],
        cwd=folder,
        env=environment(PYTHONUNBUFFERED="1", **OFFLINE),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process):
    out, error = process.communicate(timeout=300)
    return process.returncode, out, error


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.stderr.read())


def results(folder):
    """All but times, and the command."""
    content = json.loads((folder / "results.json").read_text())
    for record in content["records"]:
        del record["seconds"]
    return content | {"command": None}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    code, _, error = finish(start(folder, "compare", *OPTIONS, "--out", "run"))
    assert code == 0, error
    assert [path.name for path in folder.iterdir()] == ["run"], "no state is left"
    return folder / "run"


def assert_same(folder, whole):
    assert results(folder) == results(whole)
    for arm in ("batchnorm", "plain"):
        one, other = (keras.models.load_model(run / "models" / f"{arm}.keras") for run in (folder, whole))
        for variables in ("variables", "optimizer.variables"):
            pair = [operator.attrgetter(variables)(model) for model in (one, other)]
            for value, expected in zip(*pair, strict=True):
                np.testing.assert_array_equal(value, expected)


def test_resume_after_two_kills_gives_the_same_bits(tmp_path, whole, monkeypatch, capfd):
    command = ("compare", *OPTIONS, "--out", "run")
    for text in ("seed 5 epoch  2", "seed 6 epoch  2"):
        process = start(tmp_path, *command, "--resume")
        if text == "seed 5 epoch  2":
            wait_for(process, "Nothing to resume: the run starts from the beginning.")
        wait_for(process, text)
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
        assert [path.name for path in tmp_path.iterdir()] == ["run.unfinished"]

    done = in_process(monkeypatch, capfd, tmp_path, *command)
    assert done.returncode == 2
    assert (
        "run.unfinished holds an unfinished run, which may still be going on. Add --resume" in done.stderr
    )
    done = in_process(monkeypatch, capfd, tmp_path, *command, "--epochs", 4, "--resume")
    error = done.stderr
    assert done.returncode == 2
    assert "epochs was 3 and is 4" in error and len(error.splitlines()) == 2, "after that on the sample"
    assert "It was begun by: tfbn compare --data-dir nothing" in error

    code, _, error = finish(start(tmp_path, *command, "--resume"))
    assert code == 0, error
    assert_same(tmp_path / "run", whole)
    command_line = json.loads((tmp_path / "run" / "results.json").read_text())["command"]
    assert command_line.endswith("--out run --resume")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]

    done = in_process(monkeypatch, capfd, tmp_path, *command, "--resume")
    assert done.returncode == 0
    assert "is finished" in done.stdout and "P(improvement)" in done.stdout


def test_sigterm_writes_finished_epochs_and_resume_gives_the_same_bits(tmp_path, whole):
    process = start(tmp_path, "compare", *OPTIONS)
    wait_for(process, "seed 5 epoch  2")
    process.send_signal(signal.SIGTERM)
    code, out, error = finish(process)
    assert code == 143, error
    assert "Interrupted: kept" in error and "Traceback" not in error
    assert "To resume, add --resume to the same command." in out
    results_, state = sorted((tmp_path / "runs").iterdir())
    assert state.name == results_.name + ".unfinished"
    assert json.loads((results_ / "results.json").read_text())["interrupted"]

    # The newest run of this command, without its name.
    code, _, error = finish(start(tmp_path, "compare", *OPTIONS, "--resume"))
    assert code == 0, error
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [results_.name]
    assert_same(results_, whole)


def test_full_disk_prints_the_result_and_writes_no_files(tmp_path, whole):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))  # No file may grow larger.

    code, out, error = finish(start(tmp_path, "compare", *OPTIONS, "--out", "run", preexec_fn=limit))
    assert code == 2
    assert "Traceback" not in error
    _, state, *_, last = error.splitlines()
    assert "cannot be written" in state and "training goes on" in state
    assert last.startswith("Error: ") and "too large" in last
    report = (whole / "report.html").read_text()
    (row,) = [line for line in out.splitlines() if line.startswith("batchnorm ")]
    assert row.split()[1] in report, "the result is on the screen"
    assert not (tmp_path / "run").exists()


def test_results_are_written_though_the_folder_was_deleted_during_the_training(tmp_path, whole):
    process = start(tmp_path, "compare", *OPTIONS, "--out", "there/run")
    wait_for(process, "seed 5 epoch  1")
    shutil.rmtree(tmp_path / "there")
    code, _, error = finish(process)
    assert code == 0, error
    assert_same(tmp_path / "there" / "run", whole)


def test_read_only_folders_print_the_result_and_resume_writes_it(tmp_path, whole):
    """The checkpoints from before stay."""
    root = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    if root and shutil.which("setpriv") is None:
        pytest.skip("nothing here takes from root its right to write everywhere")
    process = start(tmp_path, "compare", *OPTIONS, "--out", "run", before=root)
    wait_for(process, "seed 6 epoch  1")
    folders = [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    code, out, error = finish(process)
    for folder in folders:
        folder.chmod(0o755)
    assert code == 2
    assert "Traceback" not in error
    _, state, *_, last = error.splitlines()  # After that on the sample.
    assert "cannot be written" in state and "Permission denied" in state and "training goes on" in state
    assert last.startswith("Error: ") and "Permission denied" in last
    assert "P(improvement)" in out
    assert [path.name for path in tmp_path.iterdir()] == ["run.unfinished"]
    code, _, error = finish(start(tmp_path, "compare", *OPTIONS, "--out", "run", "--resume"))
    assert code == 0, error
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="asks Linux what a process has loaded")
def test_signal_during_the_import_of_tensorflow_ends_in_one_line(tmp_path, number):
    """An exception there gets lost, or crashes the process."""
    process = start(tmp_path, "compare", *OPTIONS)
    while "tensorflow" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    process.send_signal(number)
    code, out, error = finish(process)
    assert (code, out, error) == (128 + number, "", "Interrupted: nothing was written.\n")
    assert not list(tmp_path.iterdir())
