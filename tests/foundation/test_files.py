"""Files: strict JSON and CSV; and what is staged is there whole, or not at all."""

import json
import os

import numpy as np
import pytest

from tfbn.foundation import files


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"a": [1, 2.5, "é", None, True]}, {"a": [1, 2.5, "é", None, True]}),
        ({"a": (float("nan"), {"b": -float("inf")})}, {"a": [None, {"b": None}]}),
        ([np.float64(0.5), np.float64("nan")], [0.5, None]),
        (float("inf"), None),
    ],
    ids=repr,
)
def test_json_comes_back_without_numbers_that_are_not_finite(tmp_path, content, expected):
    files.write_json(tmp_path / "x.json", content)
    assert files.read_json(tmp_path / "x.json") == expected
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text == files.to_json(content) + "\n"
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_json_is_strict():
    content = {"nan": float("nan"), "nested": [{"inf": float("inf")}, (1, 2.5)], "text": "é"}
    assert json.loads(files.to_json(content), parse_constant=pytest.fail) == {
        "nan": None,
        "nested": [{"inf": None}, [1, 2.5]],
        "text": "é",
    }


@pytest.mark.parametrize("content", [np.float32(1), {"a": object()}, {1, 2}])
def test_json_rejects_what_it_cannot_express(content):
    with pytest.raises(TypeError, match="not JSON serializable"):
        files.to_json(content)


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ([], "\n"),
        ([{"arm": "a,b", "loss": 0.5}, {"arm": "c", "loss": None}], 'arm,loss\n"a,b",0.5\nc,\n'),
    ],
)
def test_csv_has_a_header_and_a_row_a_record(tmp_path, records, text):
    files.write_csv(tmp_path / "x.csv", records)
    assert (tmp_path / "x.csv").read_text() == text


def test_csv_has_every_digit(tmp_path):
    records = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1e-20}]
    files.write_csv(tmp_path / "history.csv", records)
    rows = (tmp_path / "history.csv").read_text().splitlines()
    assert rows == ["epoch,loss", "1,0.30000000000000004", "2,1e-20"]


def test_csv_rejects_records_of_other_keys(tmp_path):
    with pytest.raises(ValueError, match="fields not in fieldnames"):
        files.write_csv(tmp_path / "x.csv", [{"a": 1}, {"b": 2}])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("figure.jpg", "The file must end in .png. Received: .*figure.jpg"),
        ("there.png", "there.png exists already. Choose another name, or remove it."),
        ("nowhere/figure.png", "cannot be written: No such file or directory. Choose another folder."),
        ("there.png/figure.png", "cannot be written: Not a directory. Choose another folder."),
    ],
)
def test_check_new_file_rejects_paths_that_cannot_be_written(tmp_path, name, message):
    (tmp_path / "there.png").touch()
    with pytest.raises(ValueError, match=message):
        files.check_new_file(tmp_path / name, ".png")
    assert files.check_new_file(str(tmp_path / "new.png"), ".png") == tmp_path / "new.png"
    assert os.listdir(tmp_path) == ["there.png"]


@pytest.mark.parametrize("name", ["full", "file", "file/new"])
def test_check_new_folder_rejects_paths_that_hold_something(tmp_path, name):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"exists already|cannot be written: Not a directory"):
        files.check_new_folder(tmp_path / name)


def test_check_new_folder_accepts_missing_and_empty_folders(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    monkeypatch.chdir(tmp_path)
    for name, path in [("new/a/b", "new/a/b"), ("empty", "empty"), ("link", "empty"), ("empty/../c", "c")]:
        assert files.check_new_folder(name) == tmp_path.resolve() / path
    assert sorted(os.listdir(tmp_path)) == ["empty", "link"], "nothing was created"


def write(path, kind, content):
    """Write a file, or a folder that holds one."""
    if kind == "folder":
        path.mkdir()
        path = path / "file"
    path.write_text(content)


def read(path):
    """Return the content that `write` wrote, or None if there is nothing."""
    if not path.exists():
        return None
    return {file.name: file.read_text() for file in path.iterdir()} if path.is_dir() else path.read_text()


KINDS = ("file", "folder")
BEFORE = ("nothing", "empty folder", *KINDS)


def prepare(path, before):
    if before == "empty folder":
        path.mkdir()
    elif before != "nothing":
        write(path, before, "before")


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["result", "before", "result-former", "result.keras"])
def test_staged_replaces_what_was_there(tmp_path, name, kind, before):
    path = tmp_path / name
    prepare(path, before)
    with files.staged(path) as staging:
        assert staging.name == name and staging != path
        write(staging, kind, "after")
    assert read(path) == ("after" if kind == "file" else {"file": "after"})
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", KINDS)
def test_staged_leaves_everything_as_it_was_after_an_error(tmp_path, kind, error, before):
    path = tmp_path / "result"
    prepare(path, before)
    former = read(path)
    with pytest.raises(error), files.staged(path) as staging:
        write(staging, kind, "half")
        raise error
    assert read(path) == former
    assert os.listdir(tmp_path) == ([] if before == "nothing" else ["result"])


@pytest.mark.parametrize("before", BEFORE)
def test_staged_restores_what_was_there_if_nothing_was_written(tmp_path, before):
    path = tmp_path / "result"
    prepare(path, before)
    former = read(path)
    with pytest.raises(FileNotFoundError), files.staged(path):
        pass
    assert read(path) == former
    assert os.listdir(tmp_path) == ([] if before == "nothing" else ["result"])


@pytest.mark.parametrize("kind", KINDS)
def test_staged_restores_a_folder_if_its_successor_cannot_be_moved(tmp_path, monkeypatch, kind):
    path = tmp_path / "result"
    prepare(path, "folder")
    replace = os.replace

    def fail(source, target):
        if os.fspath(target) == os.fspath(path) and "former" not in os.fspath(source):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"), files.staged(path) as staging:
        write(staging, kind, "after")
    assert read(path) == {"file": "before"}
    assert os.listdir(tmp_path) == ["result"]


def test_staged_creates_missing_folders_at_the_end(tmp_path):
    path = tmp_path / "a" / "b" / "result"
    with files.staged(path) as staging:
        assert not path.parent.exists()
        write(staging, "file", "after")
    assert read(path) == "after"
