import importlib
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbn
from tfbn.serving import proof, runtimes
from tfbn.serving.export import FILES, PACKAGES, export

module = importlib.import_module("tfbn.serving.export")
L = keras.layers


def with_statistics(model):
    """Random statistics, gamma and beta in place of those of a start."""
    rng = np.random.default_rng(3)
    for layer in model.layers:
        if isinstance(layer, (tfbn.BatchNormalization, L.BatchNormalization)):
            for weight in layer.weights:
                weight.assign(rng.uniform(0.5, 2, weight.shape))
    return model


def dense(**options):
    return with_statistics(tfbn.Model(8, 3, (6,), seed=0, **options))


def conv():
    return with_statistics(tfbn.Model((8, 8, 1), 3, (6,), conv_filters=(4,), seed=0))


def of_keras():
    layers = [L.Conv2D(4, 3, strides=2), L.ReLU(), L.BatchNormalization(), L.Flatten(), L.Dense(2)]
    return with_statistics(keras.Sequential([keras.Input([9, 9, 2]), *layers]))


def functional(shape, *layers, **options):
    x = y = keras.Input(shape, **options)
    for layer in layers:
        y = layer(y)
    return keras.Model(x, y)


def outputs(model, x):
    return np.asarray(tf.cast(model(x, training=False), "float32"))


def need(*formats):
    for name in formats:
        for package in PACKAGES[name]:
            pytest.importorskip(package)


@pytest.fixture
def in_process(monkeypatch):
    """For tests that need no fresh process: TensorFlow takes seconds to start."""

    def run(kind, path, inputs, scratch):
        call, signatures = runtimes.LOADERS[kind](str(path))
        return *runtimes.measure(call, inputs), signatures

    monkeypatch.setattr(proof, "_run_isolated", run)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = conv()
    return model, export(model, tmp_path_factory.mktemp("export") / "new" / "model", images=True)


def load_savedmodel(path):
    loaded = tf.saved_model.load(path)
    return lambda x: loaded.signatures["serving_default"](inputs=tf.constant(x))["output_0"].numpy()


def load_litert(path):
    from ai_edge_litert.interpreter import Interpreter

    def run(x):
        interpreter = Interpreter(str(path))
        interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return run


def load_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"inputs": x})[0]


@pytest.mark.parametrize("build", [dense, conv, of_keras])
@pytest.mark.parametrize(
    ("name", "load"), [("savedmodel", load_savedmodel), ("litert", load_litert), ("onnx", load_onnx)]
)
def test_each_format_gives_the_outputs_of_the_model(tmp_path, in_process, rng, name, load, build):
    need(name)
    model = build()
    done = export(model, tmp_path / "new", formats=[name])
    run = load(done.path / FILES[name])
    for size in (1, 5, 70):
        x = rng.normal(size=[size, *model.input_shape[1:]]).astype("float32")
        np.testing.assert_allclose(run(x), outputs(model, x), rtol=1e-4, atol=1e-5)
    assert [row["name"] for row in done.rows] == ["keras", "folded", name]
    assert done.rows[2]["bytes"] > 0
    assert all(row["difference"] <= 1e-5 for row in done.rows)
    (tensor,) = done.about["signatures"][name]["serving_default"]["inputs"]
    assert (tensor["shape"], tensor["dtype"]) == ([None, *model.input_shape[1:]], "float32")


def test_export_to_litert_and_onnx_in_their_own_processes(tmp_path):
    need("litert", "onnx")
    told = []
    model = dense()
    done = export(model, tmp_path / "new", ("litert", "onnx"), on_format=told.append)
    assert told == ["litert", "onnx"]
    assert {"model.tflite", "model.onnx", "export.json"} == {file.name for file in done.path.iterdir()}
    assert {"ai-edge-litert", "tf2onnx", "onnx"} < set(done.about["versions"])
    assert [list(row["milliseconds"]) for row in done.rows] == [[1, 32]] * 4


def test_savedmodel_serves_without_tfbn(exported, python, tmp_path, rng):
    """Labels of pixels, in a process that cannot import tfbn."""
    model, done = exported
    x = rng.integers(0, 256, [5, 8, 8, 1], "uint8")
    np.save(tmp_path / "x.npy", x)
    python(
        "import sys; sys.modules['tfbn'] = None\n"
        "import numpy as np, tensorflow as tf\n"
        "x = np.load('x.npy')\n"
        "served = tf.saved_model.load(sys.argv[1]).signatures\n"
        "scaled = tf.constant(x / 255, tf.float32)\n"
        "np.save('logits.npy', served['serving_default'](inputs=scaled)['output_0'])\n"
        "np.save('probabilities.npy', served['serve_images'](images=tf.constant(x))['output_0'])\n",
        done.path / "savedmodel",
    )
    expected = outputs(model, x.astype("float32") / 255)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-4, atol=1e-5)
    expected = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    np.testing.assert_allclose(np.load(tmp_path / "probabilities.npy"), expected, rtol=1e-4, atol=1e-5)


def test_export_json_has_the_keys_and_rows(exported):
    model, done = exported
    assert {file.name for file in done.path.iterdir()} == {"savedmodel", "export.json"}
    assert [file.name for file in done.path.parent.iterdir()] == ["model"]
    content = json.loads((done.path / "export.json").read_text())
    assert content == json.loads(json.dumps({**done.about, "rows": done.rows}))
    assert content["model"] == model.name
    assert (content["examples"], content["data"]) == (64, "generated")
    assert content["device"].startswith("cpu:0")
    assert {"tfbn", "keras", "tensorflow"} < set(content["versions"])
    assert len(content["folding"]["folded"]) == 2 and content["folding"]["kept"] == {}
    assert content["folding"]["difference"] <= 1e-5
    signatures = content["signatures"]["savedmodel"]
    assert {name: one["inputs"][0] for name, one in signatures.items()} == {
        "serving_default": {"name": "inputs", "shape": [None, 8, 8, 1], "dtype": "float32"},
        "serve": {"name": "inputs", "shape": [None, 8, 8, 1], "dtype": "float32"},
        "serve_images": {"name": "images", "shape": [None, 8, 8, 1], "dtype": "uint8"},
    }
    assert signatures["serve_images"]["outputs"][0]["shape"] == [None, 3]
    names = ["keras", "keras images", "folded", "folded images", "savedmodel", "savedmodel images"]
    assert [row["name"] for row in content["rows"]] == names
    assert content["rows"][0]["bytes"] == 4 * model.count_params()
    files = (done.path / "savedmodel").rglob("*")
    assert content["rows"][-1]["bytes"] == sum(os.path.getsize(file) for file in files if file.is_file())
    assert content["rows"][-1]["file"] == "savedmodel"
    about = content["tolerance"]
    assert (
        about["basis"] == "measured" and 1e-6 <= about["value"] == max(1e-6, 10 * about["rounding"]) < 1e-4
    )
    assert {row["tolerance"] for row in content["rows"]} == {about["value"]}
    assert all(set(row["milliseconds"]) == {"1", "32"} for row in content["rows"])
    assert all(0 < time < 1000 for row in content["rows"] for time in row["milliseconds"].values())


def test_table_has_a_row_for_each_endpoint(exported, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    lines = exported[1].table().splitlines()
    heads = ["file", "kB", "difference", "ms, batch of 1", "ms, batch of 32"]
    assert lines[0].split() == " ".join(heads).split()
    assert lines[2].startswith("keras ") and "0.0e+00" in lines[2]
    assert lines[-1].startswith("savedmodel images  savedmodel")
    assert len(lines) == 8 and {len(line) for line in lines} == {len(lines[0])} and len(lines[0]) <= 100


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(2)

    def call(self, x):
        return self.dense(x)


def called(model, x):
    model(x)
    return model


INTEGERS = functional([5], L.Embedding(10, 4), L.Flatten(), L.Dense(2), dtype="int32")
ANY_SIZE = functional([None, None, 3], L.Conv2D(4, 3), L.BatchNormalization(), L.GlobalMaxPooling2D())


@pytest.mark.parametrize(
    ("model", "options", "folding", "dtype"),
    [
        (tfbn.Model(8, 3, (6,), use_batchnorm=False), {}, "no batch normalization layer", "float32"),
        (dense(), {"fold": False}, "not asked for", "float32"),
        (dense(dtype="mixed_bfloat16"), {"tolerance": 0.05}, {}, "float32"),
        (INTEGERS, {"data": np.arange(10).reshape(2, 5)}, "no batch normalization layer", "int32"),
        (ANY_SIZE, {"data": np.linspace(0, 1, 210).reshape(2, 5, 7, 3), "images": True}, {}, "float32"),
        (
            called(Subclassed(), np.ones([2, 5])),
            {"data": tf.data.Dataset.from_tensors(np.eye(300, 5, dtype="float32"))},
            "no batch normalization layer",
            "float32",
        ),
        (functional([3], L.Dense(2), dtype="float16"), {}, "no batch normalization layer", "float32"),
        (dense(), {"data": (np.eye(4, 8), np.ones(4))}, {}, "float32"),
    ],
)
def test_export_accepts_models_of_all_kinds(tmp_path, in_process, model, options, folding, dtype):
    done = export(model, tmp_path / "new", **options)
    assert done.rows[-1]["name"].startswith("savedmodel")
    assert done.about["folding"] == folding or folding == {} == done.about["folding"]["kept"]
    assert done.about["data"] == ("given" if "data" in options else "generated")
    assert done.about["examples"] <= 256
    (tensor,) = done.about["signatures"]["savedmodel"]["serving_default"]["inputs"]
    assert tensor["dtype"] == dtype and tensor["shape"][0] is None


def test_a_difference_above_the_tolerance_leaves_nothing(tmp_path, in_process, monkeypatch):
    convert = module._convert

    def perturb(name, model, *rest):
        model.layers[-1].bias.assign_add([0.0, 0.01, 0.0])
        convert(name, model, *rest)

    monkeypatch.setattr(module, "_convert", perturb)
    with pytest.raises(ValueError, match=r"outputs of savedmodel differ by .*e-0.*tolerance=1.0e-06"):
        export(dense(), tmp_path / "a" / "new")
    assert not any(tmp_path.iterdir())
    export(dense(), tmp_path / "a" / "new", tolerance=0.1)
    assert [file.name for file in tmp_path.rglob("*.json")] == ["export.json"]


@pytest.mark.parametrize(
    ("quantize", "dtype", "share", "one_hot"),
    [("float16", "float16", 0.7, True), ("int8", "int8", 0.5, False)],
)
def test_quantized_file_is_small_and_about_as_accurate(
    tmp_path, in_process, rng, quantize, dtype, share, one_hot
):
    need("litert")
    from ai_edge_litert.interpreter import Interpreter

    model = with_statistics(tfbn.Model((8, 8, 1), 3, (64,), conv_filters=(8,), seed=0))
    x = rng.normal(size=[100, 8, 8, 1]).astype("float32")
    predicted = outputs(model, x).argmax(-1)
    y = np.where(np.arange(100) < 90, predicted, (predicted + 1) % 3)  # nine in ten are right
    data = x, np.eye(3)[y] if one_hot else y
    options = {"formats": ["savedmodel", "litert"], "data": data}
    plain = export(model, tmp_path / "plain", **options)
    done = export(model, tmp_path / "new", **options, quantize=quantize)
    assert done.about["quantize"] == quantize
    assert done.rows[-1]["bytes"] < share * plain.rows[-1]["bytes"]
    assert [row["accuracy"] for row in done.rows[:3]] == [0.9] * 3
    row = done.rows[-1]
    assert row["tolerance"] is None and 1e-5 < row["difference"] < 0.2
    assert row["same_class"] > 0.9 and row["accuracy"] > 0.8
    got = load_litert(done.path / FILES["litert"])(x)
    assert row["same_class"] == np.mean(got.argmax(-1) == predicted)
    assert row["accuracy"] == np.mean(got.argmax(-1) == y)
    assert "same class  accuracy" in done.table() and "same class" not in plain.table()
    interpreter = Interpreter(str(done.path / FILES["litert"]))
    assert np.dtype(dtype) in {np.dtype(detail["dtype"]) for detail in interpreter.get_tensor_details()}
    assert interpreter.get_input_details()[0]["dtype"] == np.float32
    with pytest.raises(ValueError, match=r"litert differ by .*tolerance=1.0e-06"):
        export(
            model,
            tmp_path / "strict",
            **options | {"formats": ["litert"]},
            quantize=quantize,
            tolerance=1e-6,
        )


def test_tolerance_is_fixed_for_models_that_cannot_be_measured(tmp_path, in_process):
    done = export(called(Subclassed(), x := np.eye(5)), tmp_path / "new", data=x)
    assert done.about["tolerance"] == {"value": 1e-5, "basis": "fixed", "rounding": None}
    assert {row["tolerance"] for row in done.rows} == {1e-5}


def test_a_runtime_that_fails_leaves_nothing(tmp_path):
    need("onnx")
    with pytest.raises(ValueError, match=r"runtime of onnx cannot run the model.*Exit code 1.*Erfinv"):
        export(functional([2], keras.ops.tanh, keras.ops.erfinv), tmp_path / "new", ["onnx"])
    assert not any(tmp_path.iterdir())


def test_a_conversion_that_fails_leaves_nothing(tmp_path):
    need("litert")
    with pytest.raises(ValueError, match=r"cannot be converted to litert(.|\n)*Custom ops: Erfinv"):
        export(functional([2], keras.ops.tanh, keras.ops.erfinv), tmp_path / "new", ["litert"])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("when", ["on_format", "_convert", "_run_isolated"])
def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch, when):
    def interrupt(*_):
        raise KeyboardInterrupt

    if when != "on_format":
        monkeypatch.setattr(module if when == "_convert" else proof, when, interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(dense(), tmp_path / "new", on_format=interrupt if when == "on_format" else None)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "packages"), [("litert", "ai_edge_litert"), ("onnx", "tf2onnx, onnx,")])
def test_error_names_the_missing_extra(tmp_path, monkeypatch, name, packages):
    monkeypatch.setattr(module, "is_installed", lambda package: False)
    with pytest.raises(ValueError, match=rf"{packages}.* pip install 'tfbn\[{name}\]'"):
        export(dense(), tmp_path / "new", ["savedmodel", name])
    assert not any(tmp_path.iterdir())


DENSE, FLAT = dense(), tfbn.Model(4, 2, use_batchnorm=False)
x = keras.Input([4])
TWO_INPUTS = keras.Model([x, y := keras.Input([4])], L.Add()([x, y]))
TWO_OUTPUTS = keras.Model(x, [L.Dense(2)(x), L.Dense(2)(x)])
A_DICT = keras.Model(x, {"a": L.Dense(2)(x)})


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            DENSE,
            {"formats": "savedmodel"},
            "savedmodel, litert, onnx, each once. Received: formats='savedmodel'",
        ),
        (DENSE, {"formats": ()}, "one or more of savedmodel, litert, onnx"),
        (DENSE, {"formats": ["tflight"]}, r"Received: formats=\['tflight'\]"),
        (DENSE, {"formats": ["savedmodel"] * 2}, "each once"),
        (DENSE, {"formats": ["litert"], "images": True}, "`images` needs savedmodel"),
        (DENSE, {"quantize": "float16"}, "`quantize` needs litert"),
        (DENSE, {"formats": ["litert"], "quantize": "int4"}, r"one of \['float16', 'int8'\]"),
        (DENSE, {"formats": ["litert"], "quantize": "int8"}, "needs real examples.*data=None"),
        (functional([3], L.Dense(2, kernel_initializer="zeros")), {}, "do not exercise the model"),
        (DENSE, {"tolerance": 0}, "`tolerance` must be a positive, finite number"),
        (DENSE, {"data": np.ones([3, 5])}, r"shape \(8,\) .* Received: \(5,\)"),
        (DENSE, {"data": np.ones([0, 8])}, "one or more examples"),
        (DENSE, {"data": np.full([2, 8], np.nan)}, "gives outputs that are not finite"),
        (keras.Sequential([L.Dense(2)]), {}, "no weights yet"),
        (INTEGERS, {}, "Give some as `data`"),
        (INTEGERS, {"data": np.ones([2, 5], int), "images": True}, "takes int32"),
        (ANY_SIZE, {}, "Give some as `data`"),
        (called(Subclassed(), np.ones([2, 5])), {}, "Give some as `data`"),
        (TWO_INPUTS, {}, "has 2 and 1"),
        (TWO_OUTPUTS, {}, "has 1 and 2"),
        (A_DICT, {}, "must have one output"),
    ],
)
def test_export_rejects_bad_input(tmp_path, model, options, message):
    need(*[name for name in options.get("formats", ()) if name in FILES])
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / "new", **options)
    assert not any(tmp_path.iterdir())


def test_export_rejects_bad_types(tmp_path):
    with pytest.raises(TypeError, match=r"must be a keras\.Model"):
        export("model.keras", tmp_path / "new")
    with pytest.raises(TypeError, match="`tolerance` must be a number"):
        export(DENSE, tmp_path / "new", tolerance="1e-5")


def test_export_rejects_a_path_it_cannot_write(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(ValueError, match="exists already"):
        export(FLAT, tmp_path / "there")
    with pytest.raises(ValueError, match="cannot be written"):
        export(FLAT, "/proc/nowhere")


def test_isolated_process_cannot_import_tfbn_or_keras(tmp_path):
    """Packages are found where they were found here, last of all."""
    (tmp_path / "elsewhere.py").touch()
    script = (
        "import runpy, sys\n"
        "path, folder = sys.argv[1:]\n"
        "sys.argv = ['', 'no runtime', '', '', '', folder]\n"
        "try: runpy.run_path(path, run_name='__main__')\n"
        "except KeyError: pass\n"
        "import elsewhere\n"
        "for name in ('tfbn', 'keras'):\n"
        "    try: __import__(name)\n"
        "    except ImportError: pass\n"
        "    else: sys.exit(f'{name} could be imported')\n"
    )
    subprocess.run([sys.executable, "-I", "-c", script, runtimes.__file__, tmp_path], check=True)


def test_export_leaves_the_logger_of_tensorflow_as_it_was(tmp_path, capfd):
    export(dense(), tmp_path / "new")
    tf.get_logger().warning("still here")
    assert "Logging error" not in capfd.readouterr().err
