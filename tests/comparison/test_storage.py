"""A comparison as files, and back."""

import json
from pathlib import Path

import numpy as np
import pytest

import tfbn
from tfbn import plots
from tfbn.comparison.storage import check_destination

EARLIER = Path(__file__).with_name("results_of_0.1.0.json")


def read(folder):
    return json.loads((folder / "results.json").read_text())


def models_of(content):
    return {name: arm["model"] for name, arm in content["settings"]["arms"].items()}


def test_save_without_models_leaves_the_result_unchanged(result, tmp_path):
    before, saved = result.to_json(), {"seed": 1, "epoch": 3}
    result.save(tmp_path / "without", models=False)
    assert result.to_json() == before
    result.save(tmp_path / "with")
    assert models_of(read(tmp_path / "without")) == {"batchnorm": None, "plain": None}
    assert models_of(read(tmp_path / "with")) == {"batchnorm": saved, "plain": saved}
    assert not (tmp_path / "without" / "models").exists()
    for folder, cell in (("without", '<td data-label="Saved model">–</td>'), ("with", "seed 1, epoch 3")):
        assert cell in (tmp_path / folder / "report.html").read_text()


def test_a_loaded_comparison_names_no_model_where_it_saves_none(result, tmp_path):
    result.save(tmp_path / "first")
    again = tfbn.Comparison.load(tmp_path / "first")
    before = again.to_json()
    again.save(tmp_path / "second")
    assert models_of(read(tmp_path / "second")) == {"batchnorm": None, "plain": None}
    assert again.to_json() == before


def test_paths_may_be_strings(result, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (path,) = result.save_figures("figures")
    assert path == Path("figures", "curves.png") and path.exists()
    assert result.report("page.html") == Path("page.html")
    result.save("run", models=False)
    assert tfbn.Comparison.load("run").records == tfbn.Comparison.load("run/results.json").records
    with pytest.raises(ValueError, match="exists already"):
        check_destination("run")


def test_results_json_of_an_earlier_version_loads(tmp_path):
    """Written before the package had rooms; what follows from the records comes out as it was."""
    content = json.loads(EARLIER.read_text())
    result = tfbn.Comparison.load(EARLIER)
    again = json.loads(result.to_json())
    numbers, before = (
        version.pop("verdict")["comparisons"][0]["quantities"] for version in (again, content)
    )
    assert numbers == before
    assert again == content and list(again) == list(content)
    assert result.rows()[1][0] == "batchnorm"
    result.plot()
    result.save(tmp_path / "run")
    assert read(tmp_path / "run")["records"] == content["records"]


@pytest.mark.parametrize("key", ["device", "diverged", "dataset", "settings", "records", "verdict"])
def test_load_rejects_a_file_that_lacks_a_key(tmp_path, key):
    content = json.loads(EARLIER.read_text())
    del content[key]
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"holds no results.json of a comparison: KeyError.*{key}"):
        tfbn.Comparison.load(tmp_path)


def test_save_writes_all_files_or_nothing(result, blobs, tmp_path, monkeypatch, python):
    result.save(tmp_path / "deep" / "run")
    run = tmp_path / "deep" / "run"
    names = sorted(
        str(path.relative_to(run)) for path in run.rglob("*") if path.suffix != ".pb" and path.is_file()
    )
    assert names == [
        "figures/curves.png",
        *(f"figures/{metric}.png" for metric in ("train_accuracy", "train_loss")),
        *(f"figures/{metric}.png" for metric in ("validation_accuracy", "validation_loss")),
        "history.csv",
        "models/batchnorm.keras",
        "models/batchnorm/variables/variables.data-00000-of-00001",
        "models/batchnorm/variables/variables.index",
        "models/plain.keras",
        "models/plain/variables/variables.data-00000-of-00001",
        "models/plain/variables/variables.index",
        "report.html",
        "results.json",
    ]
    assert len((run / "history.csv").read_text().splitlines()) == 1 + len(result.records)
    with pytest.raises(ValueError, match="exists already"):
        result.save(run)

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(plots, "save_curves", fail)
    with pytest.raises(OSError, match="disk full"):
        result.save(tmp_path / "other" / "run")
    assert not (tmp_path / "other").exists()


def test_saved_models_score_as_the_results(result, blobs, tmp_path, python):
    """Each in a fresh process: .keras with tfbn, the SavedModel without, at batch sizes 1 and 257."""
    result.save(tmp_path / "run")
    x = np.random.default_rng(0).normal(size=[257, 8]).astype("float32")
    for arm, model in result.models.items():
        np.savez(tmp_path / f"{arm}.npz", x=x, y=model(x), test_x=blobs.test.x, test_y=blobs.test.y)
    printed = python(
        """
import sys
import numpy as np
import tensorflow as tf
sys.modules["tfbn"] = None  # Importing it fails.
for arm in ("batchnorm", "plain"):
    expected = np.load(arm + ".npz")
    served = tf.saved_model.load("run/models/" + arm)
    x, y = expected["x"], expected["y"]
    print(np.abs(served.serve(x) - y).max())
    print(max(np.abs(served.serve(x[i:i+1]) - y[i]).max() for i in range(9)))
del sys.modules["tfbn"]
import keras
import tfbn
for arm in ("batchnorm", "plain"):
    expected = np.load(arm + ".npz")
    print(keras.models.load_model("run/models/" + arm + ".keras").evaluate(
        expected["test_x"], expected["test_y"], verbose=0)[1])
"""
    ).split()
    assert max(map(float, printed[:4])) < 1e-6
    for arm, accuracy in zip(("batchnorm", "plain"), printed[4:], strict=True):
        assert result.about["settings"]["arms"][arm]["model"] == {"seed": 1, "epoch": 3}
        assert float(accuracy) == pytest.approx(result.scores(arm)[1])


@pytest.mark.parametrize("name", ["x" * 250, "new/../run", "link"])
def test_save_writes_to_odd_destinations(result, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    monkeypatch.setattr(result, "models", {})
    assert tfbn.Comparison.load(result.save(name)).records == result.records
    assert not [
        path for path in tmp_path.iterdir() if path.name not in ("target", "link", "x" * 250, "run")
    ]


def test_check_destination_rejects_what_cannot_be_written(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for path in (tmp_path / "full", tmp_path / "full" / "file"):
        with pytest.raises(ValueError, match="exists already"):
            check_destination(path)
    for path in (tmp_path / "full" / "file" / "below", "/proc/nowhere/run"):
        with pytest.raises(ValueError, match="cannot be written"):
            check_destination(path)
    assert check_destination(tmp_path / "new" / "run") == tmp_path / "new" / "run"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "full"]
    with pytest.raises(ValueError, match="File name too long"):
        check_destination(tmp_path / ("x" * 300))
    with pytest.raises(ValueError, match=r"holds no results\.json"):
        tfbn.Comparison.load(tmp_path / "full")
