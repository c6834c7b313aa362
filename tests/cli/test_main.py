"""The command as a process: what it prints, writes and returns."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import conftest
import keras
import numpy as np
import pytest

import tfbn
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
    """The same without a process of its own, since TensorFlow takes seconds to start."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["tfbn", *map(str, arguments)])
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capfd.readouterr().err


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory):
    """What a stranger gets without network and without prepared data."""
    folder = tmp_path_factory.mktemp("sample")
    done = tfbn_command(
        "compare", "--quick", "--seeds", 2, "--out", "run", "--data-dir", "nothing", cwd=folder, **OFFLINE
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_without_network_it_says_so_everywhere(sample_run):
    folder, done = sample_run
    warning = [line for line in done.stderr.splitlines() if line]
    assert len(warning) == 1, "one plain line, and nothing else on standard error"
    assert warning[0].startswith("Warning: No mnist in")
    assert "the MNIST sample (5,000) stands in for it" in warning[0]
    assert done.stdout.splitlines()[1].startswith("MNIST sample (5,000) from embedded sample")
    assert "MNIST sample (5,000): " in done.stdout
    results = json.loads((folder / "run" / "results.json").read_text())
    assert results["dataset"]["title"] == "MNIST sample (5,000)"
    assert [results["dataset"][split] for split in ("train", "validation", "test")] == [4000, 500, 500]


def test_the_files_it_leaves(sample_run):
    folder, _ = sample_run
    run = folder / "run"
    results = json.loads((run / "results.json").read_text())
    assert results["command"] == "tfbn compare --quick --seeds 2 --out run --data-dir nothing"
    assert {"versions", "device", "jit", "dataset", "records", "test"} <= set(results)
    assert len(results["records"]) == 2 * 2 * 2, "--quick is two epochs, but --seeds was given"
    assert len((run / "history.csv").read_text().splitlines()) == 9
    assert len(list((run / "figures").glob("*.png"))) == 5
    sample = tfbn.data.sample()
    assert results["dataset"]["sha256"] == sample.sha256
    for arm, norms in (("batchnorm", 2), ("plain", 0)):
        assert (run / "models" / arm / "saved_model.pb").exists()
        model = keras.models.load_model(run / "models" / f"{arm}.keras")
        assert sum(isinstance(layer, tfbn.BatchNormalization) for layer in model.layers) == norms
        loss, accuracy = model.evaluate(*sample.test, verbose=0)
        (told,) = [r for r in results["test"] if r["arm"] == arm and r["seed"] == 1]
        assert (told["loss"], told["accuracy"]) == pytest.approx((loss, accuracy), rel=1e-4)
        assert accuracy > 0.5


def test_prints_a_line_an_epoch_a_table_and_where_the_files_are(sample_run):
    folder, done = sample_run
    lines = done.stdout.splitlines()
    assert sum(line.startswith(("seed 0 epoch", "seed 1 epoch")) for line in lines) == 8
    assert any(line.startswith("arm ") and "test accuracy" in line for line in lines)
    assert lines[-1] == str(folder / "run")


def test_will_not_overwrite(sample_run, monkeypatch, capfd):
    folder, _ = sample_run
    before = sorted(folder.rglob("*"))
    code, errors = in_process(monkeypatch, capfd, folder, "compare", "--out", "run")
    assert code == 2
    assert errors == (f"Error: {folder / 'run'} exists already. Choose another folder, or remove it.\n")
    assert sorted(folder.rglob("*")) == before


def test_json_alone_on_standard_output(tmp_path):
    prepared = conftest.PREPARED if conftest.PREPARED.exists() else tmp_path / "nothing"
    options = {
        "--out": "run",
        "--data-dir": prepared,
        "--seed": 7,
        "--hidden": "8",
        "--activation": "tanh",
        "--optimizer": "sgd",
        "--learning-rate": 0.1,
        "--batch-size": 50,
        "--validation-size": 450,
        "--precision": "mixed_bfloat16",
        "--device": "cpu",
    }
    flat = [part for option in options.items() for part in option]
    done = tfbn_command("compare", "--quick", "--json", *flat, cwd=tmp_path, **OFFLINE)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results == json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["dataset"]["validation"] == 450
    assert {record["seed"] for record in results["records"]} == {7}
    settings = results["settings"]
    assert settings["precision"] == "mixed_bfloat16"
    assert settings["optimizer"]["class_name"] == "SGD"
    assert settings["optimizer"]["config"]["learning_rate"] == 0.1
    assert settings["batch_size"] == 50
    assert settings["arms"]["plain"]["parameters"] == 784 * 8 + 8 + 8 * 10 + 10
    plain = keras.models.load_model(tmp_path / "run" / "models" / "plain.keras")
    assert plain.get_config()["activation"] == "tanh"


def test_ctrl_c_keeps_the_epochs_that_finished(tmp_path):
    process = subprocess.Popen(
        [COMMAND, "compare", "--epochs", "5000", "--out", "run", "--data-dir", "nothing"],
        cwd=tmp_path,
        env=environment(PYTHONUNBUFFERED="1", **OFFLINE),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them ignore the signal, and their children, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    alarm = threading.Timer(200, process.kill)
    alarm.start()
    for line in process.stdout:
        if "epoch  3" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    alarm.cancel()
    assert process.returncode == 130, errors
    assert "Interrupted: kept" in errors
    assert "Traceback" not in errors
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["interrupted"]
    assert len(results["records"]) >= 3
    assert (tmp_path / "run" / "models" / "batchnorm.keras").exists()


BAD = [
    (["--dataset", "mnits"], "Unknown data set 'mnits'. Did you mean mnist"),
    (["--dataset", "cifar10"], "Connect to the network once"),
    (["--no-fallback"], "Connect to the network once"),
    (["--device", "gpu:7"], "No device 'gpu:7'. Available: auto, cpu:0"),
    (["--optimizer", "adma"], "Unknown optimizer 'adma'"),
    (["--activation", "rellu"], "rellu"),
    (["--precision", "float8"], "Unknown precision 'float8'"),
    (["--batch-size", "0"], "0 is not in the range x>=1"),
    (["--batch-size", "4001"], "from 1 to 4,000"),
    (["--epochs", "0"], "0 is not in the range x>=1"),
    (["--seeds", "0"], "'--seeds': 0 is not in the range 1<=x<=1000"),
    (["--seeds", "10000"], "'--seeds': 10000 is not in the range 1<=x<=1000"),
    (["--hidden", "32,0"], "(32, 0)"),
    (["--hidden", "32;32"], "no list of integers"),
    (["--hidden", ""], "no list of integers"),
    (["--learning-rate", "-1"], "-1.0 is not in the range x>=0"),
    (["--validation-size", "2500"], "from 1 to 2,499"),
    (["--epochs", "many"], "'many' is not a valid integer"),
    (["--no-such-option"], "No such option"),
    (["--learning-rate", "nan"], "learning_rate=nan"),
    (["--seeds", "99999999999999999999999"], "is not in the range"),
    (["--dataset", "[/x]"], "Unknown data set '[/x]'"),
    (["--hidden", "1000000000000"], "does not fit into memory"),
    (["--out", "/proc/nowhere/run"], "cannot be written"),
]


def check_bad(code, stderr, message, folder):
    assert code == 2
    errors = [line for line in stderr.splitlines() if not line.startswith("Warning: No mnist in")]
    assert len(errors) == 1, stderr
    assert errors[0].startswith("Error: ")
    assert message in errors[0]
    assert not [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value))
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capfd, arguments, message):
    given = ("compare", "--data-dir", "nothing", *arguments)
    check_bad(*in_process(monkeypatch, capfd, tmp_path, *given), message, tmp_path)


@pytest.mark.parametrize(("arguments", "message"), BAD[12:13], ids=lambda value: str(value))
def test_bad_input_to_the_process(tmp_path, arguments, message):
    done = tfbn_command("compare", "--data-dir", "nothing", *arguments, cwd=tmp_path, **OFFLINE)
    check_bad(done.returncode, done.stderr, message, tmp_path)


@pytest.mark.skipif(not conftest.PREPARED.exists(), reason="no prepared data sets beside the checkout")
def test_a_damaged_data_set_is_one_line(tmp_path, monkeypatch, capfd):
    shutil.copytree(conftest.PREPARED / "mnist", tmp_path / "sets" / "mnist")
    (record,) = tmp_path.rglob("*train.tfrecord*")
    os.truncate(record, os.path.getsize(record) // 2)
    code, errors = in_process(monkeypatch, capfd, tmp_path, "compare", "--data-dir", "sets", "--out", "run")
    assert code == 2
    assert errors.startswith("Error: ") and len(errors.splitlines()) == 1
    assert "is damaged" in errors and "prepare mnist again" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["sets"]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_do_not_wait_for_tensorflow(tmp_path, option):
    script = f"""
import sys
sys.argv = ["tfbn", {option!r}]
from tfbn.cli import main
try:
    main.main()
finally:
    print("tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    *printed, loaded = done.stdout.splitlines()
    assert loaded == "False"
    assert {"--help": "compare", "--version": version("tfbn")}[option] in "\n".join(printed)


def test_bare_command_is_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tfbn"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("Usage: tfbn")


def test_devices(tmp_path):
    done = tfbn_command("devices", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    cpu = found["devices"][0]
    assert cpu["name"] == "cpu:0"
    assert cpu["hardware"] == f"{os.cpu_count()} cores"
    assert cpu["trains"] is cpu["xla"] is True
    assert cpu["failure"] is None
    assert found["auto"] in {device["name"] for device in found["devices"]}
    assert found["versions"]["tfbn"] == version("tfbn")
    lines = done.stderr.splitlines()
    assert lines[0].split() == ["device", "hardware", "memory", "capability", "trains", "XLA"]
    assert lines[1].split() == ["cpu:0", str(os.cpu_count()), "cores", "yes", "yes"]
    assert f"--device auto takes {found['auto']}." in lines
    for package in ("tfbn", "tensorflow", "keras"):
        assert [line for line in lines if line.split()[:2] == [package, version(package)]] or [
            line for line in lines if line.startswith(package) and f"{version(package)}, built for" in line
        ]
    assert len(lines) < 24, "one screen, and nothing of TensorFlow's"


def test_python_m_keeps_the_code_of_a_signal_amid_executed_text(tmp_path):
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
def test_bench_on_a_device_that_is_not_there(tmp_path, monkeypatch, capfd, command):
    code, errors = in_process(monkeypatch, capfd, tmp_path, "bench", command, "--device", "tpu")
    assert code == 2
    assert errors == "Error: No device 'tpu'. Available: auto, cpu:0, cpu:1.\n"


def test_bench_solver(tmp_path, monkeypatch, capfd):
    done = tfbn_command("bench", "solver", "--steps", 20, "--repeats", 1, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert rows[0]["name"] == "tfbn"
    assert all(np.isfinite(row["microseconds"]) for row in rows)
    code, errors = in_process(monkeypatch, capfd, tmp_path, "bench", "solver", "--steps", 0)
    assert code == 2
    assert len(errors.splitlines()) == 1


def test_bench_layer(tmp_path, monkeypatch, capfd):
    code, errors = in_process(monkeypatch, capfd, tmp_path, "bench", "layer", "--repeats", 0)
    assert code == 2
    assert len(errors.splitlines()) == 1 and "`repeats`" in errors
