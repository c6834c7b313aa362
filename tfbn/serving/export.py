"""`export`: a finished model as files that other programs run, each checked in the runtime it is for."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfbn.data.adapters import batch_reader
from tfbn.foundation import arguments
from tfbn.foundation.errors import first_line
from tfbn.foundation.files import check_new_folder, staged, write_json
from tfbn.foundation.provenance import is_installed, versions
from tfbn.layers import inspection
from tfbn.runtime.devices import describe_device
from tfbn.serving import runtimes
from tfbn.transforms.fold import fold as fold_model

# Name, which is that of tfbn's extra, too: file, and the packages that write and run it.
FORMATS = {
    "savedmodel": ("savedmodel", ()),
    "litert": ("model.tflite", ("ai_edge_litert",)),
    "onnx": ("model.onnx", ("tf2onnx", "onnx", "onnxruntime")),
}
SIZES = (1, 3, 32)  # Batches that are compared, besides that of all examples.
GENERATED, AT_MOST = 64, 256  # Examples.


@dataclass
class Export:
    """What `export` wrote, and how it was found to be.

    Attributes:
        path: the folder, a Path.
        rows: list of dicts, one for the Keras model, for it folded, and for each endpoint of each format:
            name, file, bytes (of the Keras models: of the weights), difference (the largest from the Keras
            model's outputs, as a share of the largest output), tolerance, and milliseconds, a dict of
            batch size to the median time of a call.
        about: dict of where it comes from: model, examples and whether data was given, what
            folding did, signatures by format, device, versions.
    """

    path: Path
    rows: list
    about: dict = field(repr=False)

    def table(self):
        """The rows as text, at most 100 columns wide."""
        sizes = list(self.rows[0]["milliseconds"])
        lines = [("", "file", "kB", "difference", *(f"ms, batch of {size}" for size in sizes))]
        for row in self.rows:
            lines.append(
                (
                    row["name"],
                    row["file"] or "-",
                    f"{row['bytes'] / 1000:,.1f}",
                    f"{row['difference']:.1e}",
                    *(f"{row['milliseconds'][size]:.3f}" for size in sizes),
                )
            )
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join([*map(str.ljust, line[:2], widths), *map(str.rjust, line[2:], widths[2:])])
            for line in lines
        ]
        return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def export(
    model,
    path,
    formats=("savedmodel",),
    fold=True,
    data=None,
    images=False,
    tolerance=1e-5,
    on_format=None,
):
    """Write `model` to the folder `path` in one or more formats that need neither tfbn nor Keras.

    ::

        savedmodel/  model.tflite  model.onnx  export.json

    Each file is loaded by its own runtime in a fresh process, from which tfbn and Keras are shut out. Its
    outputs are compared with those of `model` on batches of 1, 3, 32 and all examples, and calls are
    timed, all on the CPU, with each runtime's default threads. The folder appears only if every
    comparison is within `tolerance`; if one is not, or the export is interrupted, nothing is left.

    A SavedModel is called as ``tf.saved_model.load(path + "/savedmodel").serve(x)``, or by its signature
    "serving_default" of an input `inputs`. The batch size is free in all three formats, as are other sizes
    that the model leaves free (in LiteRT by `resize_tensor_input`). Inputs of floats are float32, also
    where the model computes in half precision; outputs are as the model gives them. LiteRT does not run
    Keras' half precision, nor ONNX Runtime its bfloat16, and neither runs every operation.

    Args:
        model: a built `keras.Model` of one input and one output tensor.
        path: the folder to write. It must not exist, or be empty.
        formats: names of formats: "savedmodel" (default; TensorFlow and its servers), "litert" (phones
            and small devices; needs ``pip install 'tfbn[litert]'``) and "onnx" (ONNX Runtime; needs
            ``pip install 'tfbn[onnx]'``).
        fold: bool, whether batch norm is first folded into the layers beside it. Default True, as that is
            faster and changes the outputs by rounding only. A model without batch norm is exported as is.
        data: examples to compare by, of which the first 256 are used, in any form that `recalibrate`
            takes; of a Dataset the first batch. Real ones tell most. Default None: 64 drawn from a standard
            normal distribution by a fixed seed, for inputs of floats and of a fixed shape.
        images: bool, whether the SavedModel gets a second signature, "serve_images": uint8 pixels
            ``[N, ...]``, which it divides by 255, to probabilities: softmax of the model's outputs (sigmoid
            of a single one), or the outputs as they are if the model ends in softmax or sigmoid. Default
            False.
        tolerance: float, the largest difference allowed, as a share of the largest absolute output.
            Default 1e-5, a few roundings in float32. Half precision needs 1e-2 to 5e-2.
        on_format: function that is told the name of each format before it is written. Default None.

    Returns:
        An `Export`, whose `table()` shows sizes, differences and times.

    Raises:
        TypeError: `model` is no `keras.Model`, `tolerance` no number, or `data` can be read but once.
        ValueError: an argument is not as described, a package is missing, a conversion or a runtime fails,
            or outputs differ by more than `tolerance`.

    >>> import tempfile
    >>> from tfbn import Model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = export(Model(4, 2), folder + "/model")
    >>> [row["name"] for row in done.rows]
    ['keras', 'folded', 'savedmodel']
    """
    _check_formats(formats, images)
    if not 0 < arguments.number("tolerance", tolerance) < float("inf"):
        raise ValueError(f"`tolerance` must be a positive number. Received: tolerance={tolerance!r}.")
    has_batchnorm = _has_batchnorm(model)
    path = check_new_folder(path)
    examples, spec = _examples(model, data, images)
    inputs = _inputs(examples, images)
    head = _head(model, examples) if images else None
    expected, milliseconds = _run_keras(model, spec, head, inputs)
    if not all(np.isfinite(output).all() for by_size in expected.values() for output in by_size.values()):
        raise ValueError(
            f"Model {model.name!r} itself gives outputs that are not finite. Check its weights and `data`."
        )

    def judge(name, file, size, outputs, milliseconds):
        for endpoint in outputs:
            row = {
                "name": name if endpoint == "serving_default" else f"{name} images",
                "file": file,
                "bytes": size,
                "difference": _difference(outputs[endpoint], expected[endpoint]),
                "tolerance": tolerance,
                "milliseconds": milliseconds[endpoint],
            }
            rows.append(row)
            if not row["difference"] <= tolerance:
                raise ValueError(
                    f"The outputs of {row['name']} differ by {row['difference']:.1e} of the largest output "
                    f"of model {model.name!r}; allowed is tolerance={tolerance:.1e}. Nothing was written. "
                    "Give a larger `tolerance` if rounding explains it, as in half precision; else choose "
                    "other `formats`."
                )

    rows = []
    judge("keras", None, _weight_bytes(model), expected, milliseconds)
    final, folding = model, "not asked for" if has_batchnorm else "no batch normalization layer"
    if fold and has_batchnorm:
        final = fold_model(model, examples, tolerance)
        folding = {name: getattr(final.folding, name) for name in ("folded", "kept", "difference")}
        judge("folded", None, _weight_bytes(final), *_run_keras(final, spec, head, inputs))
    about = {
        "model": model.name,
        "examples": len(examples),
        "data": "generated" if data is None else "given",
        "folding": folding,
        "signatures": {},
        "device": describe_device("cpu:0"),
        "versions": versions() | _package_versions(formats),
    }
    with tempfile.TemporaryDirectory(prefix="tfbn-") as scratch, staged(path) as folder:
        folder.mkdir()
        for name in formats:
            if on_format is not None:
                on_format(name)
            file = folder / FORMATS[name][0]
            _convert(name, final, spec, head, file)
            asked = inputs if name == "savedmodel" else {"serving_default": inputs["serving_default"]}
            *results, about["signatures"][name] = runtimes.run_elsewhere(name, file, asked, scratch)
            judge(name, file.name, _file_bytes(file), *results)
        write_json(folder / "export.json", {**about, "rows": rows})
    return Export(path, rows, about)


def _check_formats(formats, images):
    known = isinstance(formats, (list, tuple)) and formats and all(name in FORMATS for name in formats)
    if not known or len(set(formats)) < len(formats):
        raise ValueError(
            f"`formats` must be a list of one or more of {', '.join(FORMATS)}, each once. "
            f"Received: formats={formats!r}."
        )
    if images and "savedmodel" not in formats:
        raise ValueError(f"`images` needs savedmodel among the formats. Received: formats={formats!r}.")
    for name in formats:
        missing = [package for package in FORMATS[name][1] if not is_installed(package)]
        if missing:
            raise ValueError(
                f"The format {name} needs {', '.join(missing)}, which is not installed. "
                f"Run: pip install 'tfbn[{name}]'."
            )


def _has_batchnorm(model):
    """Whether there is any; `find` refuses what is no model, or not built."""
    try:
        return bool(inspection.find_batchnorms(model))
    except ValueError:
        if not model.built:
            raise
        return False


def _examples(model, data, images):
    """The examples to compare by, and the TensorSpec of a batch of any size."""
    inputs, outputs = (getattr(model, name, None) or [None] for name in ("inputs", "outputs"))
    shape, dtype = (inputs[0].shape[1:], inputs[0].dtype) if inputs[0] is not None else (None, "float32")
    x = [] if data is None else tf.nest.flatten(next(batch_reader(model, data, AT_MOST)())[0])
    if max(len(inputs), len(outputs), len(x)) > 1:
        raise ValueError(
            f"A model must have one input and one output to be exported. {model.name!r} has "
            f"{max(len(inputs), len(x))} and {len(outputs)}. Use Keras' own `model.export`."
        )
    dtype = tf.as_dtype(dtype)
    if dtype.is_floating:
        dtype = tf.float32
    elif images:
        raise ValueError(f"`images` needs a model that takes floats. {model.name!r} takes {dtype.name}.")
    if x:
        (x,) = x
        x = np.asarray(x)[:AT_MOST].astype(dtype.as_numpy_dtype)
        shape = x.shape[1:] if shape is None else shape
    elif shape is None or None in shape or not dtype.is_floating:
        raise ValueError(
            f"No examples can be made up for model {model.name!r}, which does not take floats of a known, "
            "fixed shape. Give some as `data`."
        )
    else:
        x = np.random.default_rng(0).standard_normal([GENERATED, *shape]).astype("float32")
    return x, tf.TensorSpec([None, *shape], dtype, name="inputs")


def _inputs(examples, images):
    """Batches by endpoint and size."""
    inputs = {"serving_default": examples}
    if images:
        inputs["serve_images"] = np.random.default_rng(1).integers(0, 256, examples.shape, "uint8")
    sizes = sorted({*SIZES, len(examples)})
    return {
        name: {size: np.resize(x, (size, *x.shape[1:])) for size in sizes} for name, x in inputs.items()
    }


def _endpoints(model, spec, head):
    """The model as functions by endpoint, each compiled once for all batch sizes.

    With `head`, which makes probabilities of its outputs, there is one for images.
    """

    def serve(x):
        outputs = model(x, training=False)
        if not tf.is_tensor(outputs):
            raise ValueError(
                f"A model must have one output to be exported. {model.name!r} gives {outputs!r}."
            )
        return outputs

    def serve_images(pixels):
        return head(tf.cast(serve(tf.cast(pixels, "float32") / 255), "float32"))

    calls = {"serving_default": (serve, spec)}
    if head:
        calls["serve_images"] = serve_images, tf.TensorSpec(spec.shape, "uint8", name="images")
    return {name: tf.function(call, [one], autograph=False) for name, (call, one) in calls.items()}


def _head(model, examples):
    """What makes probabilities of the model's outputs: nothing, where they are such already."""
    outputs = np.asarray(model(examples, training=False), "float32")
    if inspection.gives_probabilities(model, outputs):
        return tf.identity
    return tf.sigmoid if outputs.shape[-1] == 1 else tf.nn.softmax


def _run_keras(model, spec, head, inputs):
    endpoints = _endpoints(model, spec, head)
    # Where the runtimes are: a GPU rounds otherwise.
    with tf.device("cpu:0"):
        return runtimes.measure(lambda name, batch: endpoints[name](tf.constant(batch)).numpy(), inputs)


def _difference(outputs, expected):
    """The largest one, as a share of the largest output; infinite if a shape is not the expected one."""
    largest = max(np.abs(wanted).max() for wanted in expected.values()) or 1.0
    differences = [
        np.abs(outputs[size] - wanted).max() if outputs[size].shape == wanted.shape else np.inf
        for size, wanted in expected.items()
    ]
    return float(np.max(differences) / largest)


def _convert(name, model, spec, head, file):
    """Write `model` to `file`."""
    with _captured() as said:
        try:
            if name != "savedmodel":
                model.export(file, format=name, verbose=False, input_signature=[spec])
                return
            archive = keras.export.ExportArchive()
            archive.track(model)
            for endpoint, function in _endpoints(model, spec, head).items():
                function.get_concrete_function()  # The archive takes functions that are traced.
                # Keras makes of the first one "serving_default", too; in Python it is `loaded.serve`.
                archive.add_endpoint(endpoint.replace("serving_default", "serve"), function)
            archive.write_out(file, verbose=False)
        except Exception as error:
            reason = first_line(error)
            raise ValueError(
                f"Model {model.name!r} cannot be converted to {name}. Nothing was written. Choose other "
                f"`formats`. {type(error).__name__}: {reason}\n{said()}".rstrip()
            ) from error


@contextlib.contextmanager
def _captured():
    """Keep what converters print, some of it past Python, to themselves; a function that gives its end."""
    tf.get_logger()  # Made later, it would keep the stream that is there for a while only.
    with tempfile.TemporaryFile("w+", errors="replace") as log, contextlib.ExitStack() as stack:

        def end():
            log.seek(0)
            return log.read().strip()[-1000:]

        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.WARNING)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for number in (1, 2):
            kept = os.dup(number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(log.fileno(), number)
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        yield end


def _weight_bytes(model):
    return sum(weight.numpy().nbytes for weight in model.weights)


def _file_bytes(path):
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


def _package_versions(formats):
    names = importlib.metadata.packages_distributions()  # onnxruntime may come as onnxruntime-gpu.
    packages = [names[module][0] for name in formats for module in FORMATS[name][1]]
    return {package: importlib.metadata.version(package) for package in packages}
