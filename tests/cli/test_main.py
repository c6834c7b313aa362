"""The command as a whole, devices and bench: what they print and return."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from tfbn.bench import timing
from tfbn.cli import main as cli

COMMAND = str(Path(sys.executable).with_name("tfbn"))
# A proxy that refuses: no network, wherever the tests run.
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


def environment(**more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TF", "MPL"))}
    return {**clean, **more}


def tfbn_command(*arguments, cwd, timeout=300, **more):
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def in_process(monkeypatch, capfd, cwd, *arguments):
    """Run the command here, because TensorFlow takes seconds to start."""
    command = ["tfbn", *map(str, arguments)]
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", command)
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return subprocess.CompletedProcess(command, ended.value.code or 0, *capfd.readouterr())


def check_bad(code, stderr, message, folder):
    assert code == 2
    errors = [line for line in stderr.splitlines() if not line.startswith("Warning: No mnist in")]
    assert len(errors) == 1, stderr
    assert errors[0].startswith("Error: ")
    assert message in errors[0]
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_command_without_arguments_prints_its_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tfbn"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("Usage: tfbn")


def test_devices_prints_json_and_a_table(tmp_path):
    done = tfbn_command("devices", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    cpu = result["devices"][0]
    assert cpu["name"] == "cpu:0"
    assert cpu["hardware"] == f"{os.cpu_count()} cores"
    assert cpu["trains"] is cpu["xla"] is True
    assert cpu["failure"] is None
    assert result["auto"] in {device["name"] for device in result["devices"]}
    assert result["versions"]["tfbn"] == version("tfbn")
    lines = done.stderr.splitlines()
    assert lines[0].split() == ["device", "hardware", "memory", "capability", "trains", "XLA"]
    assert set(lines[1]) == {"-"}
    assert lines[2].split() == ["cpu:0", str(os.cpu_count()), "cores", "yes", "yes"]
    assert f"--device auto takes {result['auto']}." in lines
    for package in ("tfbn", "tensorflow", "keras"):
        assert [line for line in lines if line.split()[:2] == [package, version(package)]] or [
            line for line in lines if line.startswith(package) and f"{version(package)}, built for" in line
        ]
    assert len(lines) < 24, "one screen, and nothing of TensorFlow's"


def test_python_m_keeps_the_exit_code_of_a_signal_amid_executed_text(tmp_path):
    """Such as the making of a dataclass."""
    text = """import sys
sys.argv = ["tfbn"]  # Which needs no TensorFlow.
from tfbn.cli.main import cli, main
cli.main = lambda **_: exec("raise KeyboardInterrupt")
main()
"""
    (tmp_path / "interrupted.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "Interrupted: nothing was written.\n")


@pytest.mark.parametrize("command", ["solver", "layer"])
def test_bench_rejects_a_device_that_does_not_exist(tmp_path, monkeypatch, capfd, command):
    done = in_process(monkeypatch, capfd, tmp_path, "bench", command, "--device", "tpu")
    assert done.returncode == 2
    assert done.stderr == "Error: No device 'tpu'. Available: auto, cpu:0, cpu:1.\n"


def test_bench_solver_prints_json_and_rejects_bad_steps(tmp_path, monkeypatch, capfd):
    def alternate(peers, repeats, on_run):
        return {name: [1.0] for name in peers}, dict.fromkeys(peers, 0.0)

    monkeypatch.setattr(timing, "alternate", alternate)
    steps = ("--steps", 20, "--repeats", 1)
    done = in_process(monkeypatch, capfd, tmp_path, "bench", "solver", *steps, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert rows[0]["name"] == "tfbn"
    assert all(np.isfinite(row["microseconds"]) for row in rows)
    done = in_process(monkeypatch, capfd, tmp_path, "bench", "solver", "--steps", 0)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_bench_layer_rejects_bad_repeats(tmp_path, monkeypatch, capfd):
    done = in_process(monkeypatch, capfd, tmp_path, "bench", "layer", "--repeats", 0)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "`repeats`" in done.stderr


def test_error_without_a_message_is_named_by_its_class(monkeypatch, capfd, tmp_path):
    def fail(**options):
        raise TimeoutError

    monkeypatch.setattr(cli.cli, "main", fail)
    done = in_process(monkeypatch, capfd, tmp_path)
    assert (done.returncode, done.stderr) == (2, "Error: TimeoutError\n")
