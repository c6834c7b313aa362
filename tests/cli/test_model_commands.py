"""The commands on a finished model, and with bad input."""

import json
import zipfile

import keras
import numpy as np
import pytest
from test_main import OFFLINE, in_process, tfbn_command

import tfbn
from tfbn.layers import inspection

DATA = "nothing"  # so that the sample of MNIST stands in


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of models, whose averages have not been updated, and of something else."""
    folder = tmp_path_factory.mktemp("models")
    tfbn.Model(784, 10, (8,), seed=0).save(folder / "model.keras")
    keras.Sequential([keras.Input([784]), keras.layers.Dense(2)]).save(folder / "plain.keras")
    tfbn.Model((8, 8, 1), 10, conv_filters=(2,), hidden_dims=(3,)).save(folder / "images.keras")
    code = keras.layers.Lambda(lambda x: x + 1)  # The file holds its bytes, which loading would run.
    stack = [keras.Input([784]), code, keras.layers.BatchNormalization()]
    keras.Sequential(stack).save(folder / "code.keras")
    (folder / "text.keras").write_text("no model")
    with zipfile.ZipFile(folder / "zip.keras", "w") as archive:
        archive.writestr("a", "b")
    return folder


def test_diagnose_prints_json_writes_a_figure_and_fails_on_request(folder):
    done = tfbn_command(
        *("diagnose", "model.keras", "--data-dir", DATA, "--steps", 0, "--json", "--out", "figure.png"),
        *("--fail-on", "nan,lag"),
        cwd=folder,
        **OFFLINE,
    )
    assert done.returncode == 1, done.stderr
    content = json.loads(done.stdout)
    assert content["layers"][0]["start_left"] == 1 and "lag" in content["codes"]
    assert "after 0 steps" in " ".join(content["findings"])
    assert "normalised by" in done.stderr
    assert (folder / "figure.png").exists()


def test_recalibrate_writes_exact_averages_and_fold_keeps_the_outputs(folder, monkeypatch, capfd):
    options = ("--data-dir", DATA, "--split", "test", "--out", "new.keras", "--json")
    done = in_process(monkeypatch, capfd, folder, "recalibrate", "model.keras", *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "Saved new.keras"
    assert json.loads(done.stdout)["out"] == "new.keras"
    new = keras.models.load_model(folder / "new.keras")
    x = tfbn.data.sample().test.x
    inputs = x.astype("float64") @ new.layers[1].kernel.numpy() + new.layers[1].bias.numpy()
    np.testing.assert_allclose(inspection.find_batchnorms(new)[0].moving_variance, inputs.var(0), rtol=1e-5)

    options = ("--out", "folded.keras", "--tolerance", "1e-4", "--json")
    done = in_process(monkeypatch, capfd, folder, "fold", "new.keras", *options)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert len(content["folded"]) == 1 and content["difference"] < content["tolerance"] == 1e-4
    folded = keras.models.load_model(folder / "folded.keras")
    assert not [layer for layer in folded.layers if isinstance(layer, tfbn.BatchNormalization)]
    np.testing.assert_allclose(folded(x[:9]), new(x[:9]), rtol=1e-4, atol=1e-5)


def test_export_writes_a_savedmodel(folder, monkeypatch, capfd):
    options = ("--out", "served", "--tolerance", "1e-4", "--json")
    done = in_process(monkeypatch, capfd, folder, "export", "model.keras", *options)
    assert done.returncode == 0, done.stderr
    assert (folder / "served" / "savedmodel" / "saved_model.pb").exists()
    content = json.loads(done.stdout)
    assert json.loads((folder / "served" / "export.json").read_text())["rows"] == content["rows"]
    assert content["rows"][-1]["tolerance"] == 1e-4
    assert done.stderr.splitlines()[-1] == "Saved in served"


BAD = [
    (["diagnose", "nothing.keras"], "There is no file nothing.keras"),
    (["diagnose", "model.keras", "--out", "figure.jpg"], "must end in .png"),
    (["diagnose", "text.keras"], "text.keras is not a .keras file"),
    (["diagnose", "zip.keras"], "zip.keras holds no model that Keras can read"),
    (["diagnose", "code.keras"], "code.keras holds no model that Keras can read"),
    (["diagnose", "plain.keras"], "has no batch normalization layer"),
    (["diagnose", "images.keras"], "MODEL reads examples of the shape (8, 8, 1), MNIST"),
    (["diagnose", "model.keras", "--dataset", "mnits"], "Unknown data set 'mnits'"),
    (["diagnose", "model.keras", "--out", "nowhere/figure.png"], "nowhere/figure.png"),
    (["recalibrate", "model.keras", "--out", "nowhere/new.keras"], "nowhere/new.keras cannot be written"),
    (["recalibrate", "model.keras", "--out", "model.keras"], "exists already"),
    (["recalibrate", "model.keras", "--out", "new.h5"], "must end in .keras"),
    (["recalibrate", "plain.keras", "--out", "new2.keras"], "has no batch normalization layer"),
    (["recalibrate", "model.keras"], "Missing option '--out'"),
    (
        ["diagnose", "model.keras", "--fail-on", "lags"],
        "is not a list of codes: any of nan, data, lag, drift",
    ),
    (["fold", "plain.keras", "--out", "new2.keras"], "has no batch normalization layer"),
    (["export", "model.keras", "--out", "/proc/nowhere"], "cannot be written"),
    (["export", "model.keras", "--out", "new", "--formats", "tflight"], "tflight"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value))
def test_model_command_rejects_bad_input_in_one_line_and_writes_nothing(
    folder, monkeypatch, capfd, arguments, message
):
    before = sorted(folder.rglob("*"))
    data = ["--data-dir", DATA] if arguments[0] in ("diagnose", "recalibrate") else []
    done = in_process(monkeypatch, capfd, folder, *arguments, *data)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if not line.startswith("Warning: No mnist")]
    assert len(errors) == 1, errors
    assert errors[0].startswith("Error: ")
    assert message in errors[0]
    assert sorted(folder.rglob("*")) == before


@pytest.fixture(scope="module")
def rescaling(tmp_path_factory, mnist):
    """A file of a model of (28, 28) images and pixels of 0..255, trained by Keras, and test data."""
    keras.utils.set_random_seed(0)
    x, y = mnist.train.x[:3000].reshape(-1, 28, 28) * 255, mnist.train.y[:3000]
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(32)]
    layers += [keras.layers.BatchNormalization(momentum=0.8), keras.layers.ReLU(), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input([28, 28]), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(x, y, epochs=3, verbose=0)
    path = tmp_path_factory.mktemp("rescaling") / "model.keras"
    model.save(path)
    return path, mnist.test.x.reshape(-1, 28, 28) * 255, mnist.test.y


def test_commands_feed_the_pixels_that_the_model_takes(rescaling, capfd, monkeypatch):
    path, x, y = rescaling
    usual = keras.models.load_model(path).evaluate(x, y, verbose=0)[1]
    assert usual > 0.8

    def run(command, *options):
        options = ("--data-dir", DATA, "--json", *options)
        done = in_process(monkeypatch, capfd, path.parent, command, path, *options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    content, said = run("diagnose", "--split", "test", "--fail-on", "better,worse,lag,drift,data")
    assert content["scale"] == "0..255" and "Pixels are fed as 0..255" in said
    assert content["ways"]["moving"]["accuracy"] == pytest.approx(usual, abs=1e-3)
    content, _ = run("recalibrate", "--out", str(path.parent / "recalibrated.keras"))
    assert content["scale"] == "0..255"
    again = keras.models.load_model(path.parent / "recalibrated.keras").evaluate(x, y, verbose=0)[1]
    assert again == pytest.approx(usual, abs=0.02)
    content, _ = run("diagnose", "--split", "test", "--scale", "0..1")
    assert content["scale"] == "0..1" and content["ways"]["moving"]["accuracy"] < usual - 0.1
