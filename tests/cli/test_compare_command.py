"""The command compare as a process: what it prints, writes and returns."""

import json
import os
import shutil
import signal
import subprocess
import threading

import conftest
import keras
import pytest
from test_main import COMMAND, OFFLINE, check_bad, environment, in_process, tfbn_command

import tfbn


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory):
    """A run without network and without prepared data."""
    folder = tmp_path_factory.mktemp("sample")
    done = tfbn_command(
        "compare", "--quick", "--seeds", 2, "--out", "run", "--data-dir", "nothing", cwd=folder, **OFFLINE
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_compare_without_network_names_the_sample_everywhere(sample_run):
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


def test_compare_writes_results_figures_and_models(sample_run):
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
        (test,) = [r for r in results["test"] if r["arm"] == arm and r["seed"] == 1]
        assert (test["loss"], test["accuracy"]) == pytest.approx((loss, accuracy), rel=1e-4)
        assert accuracy > 0.5


def test_compare_prints_a_line_per_epoch_a_table_and_the_folder(sample_run):
    folder, done = sample_run
    lines = done.stdout.splitlines()
    assert sum(line.startswith(("seed 0 epoch", "seed 1 epoch")) for line in lines) == 8
    assert any(line.startswith("arm ") and "test accuracy" in line for line in lines)
    assert lines[-1] == str(folder / "run")


def test_compare_exits_with_1_and_names_no_models_where_all_runs_diverged(tmp_path, monkeypatch, capfd):
    options = ("--learning-rate", "1e38", "--optimizer", "sgd", "--seeds", 1, "--data-dir", "nothing")
    done = in_process(monkeypatch, capfd, tmp_path, "compare", "--quick", *options, "--out", "run")
    assert done.returncode == 1, done.stderr
    assert "There are no models: all runs diverged." in done.stdout.splitlines()[-1]
    assert (tmp_path / "run" / "results.json").exists()


def test_compare_rejects_a_folder_that_holds_results(sample_run, monkeypatch, capfd):
    folder, _ = sample_run
    before = sorted(folder.rglob("*"))
    done = in_process(monkeypatch, capfd, folder, "compare", "--out", "run")
    assert done.returncode == 2
    assert done.stderr == (
        f"Error: {folder / 'run'} exists already. Choose another folder, or remove it.\n"
    )
    assert sorted(folder.rglob("*")) == before


def test_compare_json_prints_results_json_alone(tmp_path):
    options = {
        "--out": "run",
        "--data-dir": "nothing",
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


def test_compare_writes_finished_epochs_after_ctrl_c(tmp_path):
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
    (["--hidden", "32,0"], "hidden_dims[1]=0"),
    (["--hidden", "32;32"], "not a list of integers"),
    (["--hidden", ""], "not a list of integers"),
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


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value))
def test_compare_rejects_bad_input_in_one_line_and_writes_nothing(
    tmp_path, monkeypatch, capfd, arguments, message
):
    command = ("compare", "--data-dir", "nothing", *arguments)
    done = in_process(monkeypatch, capfd, tmp_path, *command)
    check_bad(done.returncode, done.stderr, message, tmp_path)


@pytest.mark.parametrize(("arguments", "message"), BAD[12:13], ids=lambda value: str(value))
def test_compare_as_a_process_rejects_bad_input_in_one_line(tmp_path, arguments, message):
    done = tfbn_command("compare", "--data-dir", "nothing", *arguments, cwd=tmp_path, **OFFLINE)
    check_bad(done.returncode, done.stderr, message, tmp_path)


@pytest.mark.skipif(not conftest.PREPARED.exists(), reason="no prepared data sets beside the checkout")
def test_compare_rejects_a_damaged_data_set_in_one_line(tmp_path, monkeypatch, capfd):
    shutil.copytree(conftest.PREPARED / "mnist", tmp_path / "sets" / "mnist")
    (record,) = tmp_path.rglob("*train.tfrecord*")
    os.truncate(record, os.path.getsize(record) // 2)
    done = in_process(monkeypatch, capfd, tmp_path, "compare", "--data-dir", "sets", "--out", "run")
    errors = done.stderr
    assert done.returncode == 2
    assert errors.startswith("Error: ") and len(errors.splitlines()) == 1
    assert "is damaged" in errors and "prepare mnist again" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["sets"]
