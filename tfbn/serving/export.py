"""`export`: a finished model as files that other programs run, each checked in the runtime it is for."""

import importlib.metadata
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfbn.foundation import arguments
from tfbn.foundation.errors import first_line
from tfbn.foundation.files import check_new_folder, staged, write_json
from tfbn.foundation.provenance import is_installed, versions
from tfbn.foundation.silence import output_captured
from tfbn.foundation.tables import text_table
from tfbn.layers import inspection
from tfbn.runtime.devices import describe_device
from tfbn.serving.proof import Proof, endpoint_functions
from tfbn.transforms.fold import fold_within

# By format: its file, and the packages that write and run it. tfbn's extra of the same name installs them.
FILES = {"savedmodel": "savedmodel", "litert": "model.tflite", "onnx": "model.onnx"}
PACKAGES = {"savedmodel": (), "litert": ("ai_edge_litert",), "onnx": ("tf2onnx", "onnx", "onnxruntime")}

QUANTIZATIONS = ("float16", "int8")
CALIBRATION_EXAMPLES = 100  # at most


@dataclass
class Export:
    """The files that `export` wrote, and how they compare with the model.

    Attributes:
        path: the folder.
        rows: a dict for the Keras model, for the folded one, and for each endpoint of each format: name,
            file, bytes (of the Keras models: of the weights), difference (the largest from the Keras
            model's outputs, as a share of the largest output), tolerance (None: not judged by it),
            milliseconds, a dict of batch size to the median time of a call, same_class (the share of
            examples with the class of the Keras model, its largest output) and accuracy, by the labels in
            `data`. The last two are None for outputs that are not classes, or without labels.
        about: where it comes from: model, examples and whether data was given, tolerance (value, basis:
            "given", "measured" or "fixed", and the rounding in float32 that was measured), what folding
            did, quantize, signatures by format, scale and scale_reason (the range in which the model is fed
            the pixels of images, and how it is known; None without images), device, versions.
    """

    path: Path
    rows: list[dict]
    about: dict[str, Any] = field(repr=False)

    def table(self) -> str:
        """Return the rows as a text table, as wide as the terminal."""
        sizes = list(self.rows[0]["milliseconds"])
        scores = ["same_class"] * (self.about["quantize"] is not None) + ["accuracy"]
        scores = [name for name in scores if any(row[name] is not None for row in self.rows)]
        titles = [name.replace("_", " ") for name in scores]
        header = ["", "file", "kB", "difference", *titles, *(f"ms, batch of {size}" for size in sizes)]
        rows = []
        for row in self.rows:
            kilobytes, share = f"{row['bytes'] / 1000:,.1f}", f"{row['difference']:.1e}"
            times = [f"{row['milliseconds'][size]:.3f}" for size in sizes]
            shares = ["-" if row[name] is None else f"{row[name]:.3f}" for name in scores]
            rows.append([row["name"], row["file"] or "-", kilobytes, share, *shares, *times])
        return text_table(header, rows, numeric=range(2, len(header)))


def export(
    model: keras.Model,
    path: str | os.PathLike,
    formats: list[str] | tuple[str, ...] = ("savedmodel",),
    fold: bool = True,
    data: Any = None,
    images: bool = False,
    tolerance: float | None = None,
    on_format: Callable[[str], object] | None = None,
    quantize: str | None = None,
    scale: str | None = None,
) -> Export:
    """Write `model` to the folder `path` in one or more formats that need neither tfbn nor Keras.

    Each file is loaded by its own runtime in a fresh process that cannot import tfbn and Keras. Its outputs
    are compared with those of `model` on batches of 1, 3, 32 and all examples, and calls are timed, on the
    CPU, with each runtime's default threads. The folder appears only if every comparison is within
    `tolerance`, with the result in export.json. Otherwise, or after an interrupt, nothing is left.

    A SavedModel is called by ``loaded = tf.saved_model.load(path + "/savedmodel")``, then
    ``loaded.serve(x)`` (in one expression the loaded object would be gone before the call), or by its
    signature "serving_default" with an input `inputs`. The batch size is free in all formats, as are other
    sizes that the model leaves free (in LiteRT by `resize_tensor_input`). Inputs of floats are float32,
    also in half precision; outputs are as the model gives them. LiteRT does not run Keras' half precision,
    nor ONNX Runtime its bfloat16, and neither runs every operation.

    Args:
        model: a built model of one input and one output tensor.
        path: the folder to write. It must not exist, or be empty.
        formats: names of formats: "savedmodel" (default; a folder for TensorFlow and its servers), "litert"
            (model.tflite, for phones and small devices; needs ``pip install 'tfbn[litert]'``) and "onnx"
            (model.onnx, for ONNX Runtime; needs ``pip install 'tfbn[onnx]'``).
        fold: whether batch norm is first folded into the layers beside it. Default True: that is faster
            and changes the outputs by rounding only. A model without batch norm is exported as is.
        data: examples to compare by, in any form that `recalibrate` takes. The first 256 are used, of a
            Dataset the first batch; real ones are the better proof, and labels among them give the
            accuracy of each file. Default None: 64 drawn from a standard normal distribution by a fixed
            seed, for inputs of floats and of a fixed shape.
        images: whether the SavedModel gets a second signature, "serve_images". It takes uint8 pixels
            ``[N, ...]``, brings them to the range that `scale` names, and returns probabilities: softmax of
            the model's outputs (sigmoid of a single one), or the outputs themselves if the model ends in
            softmax or sigmoid. Compared are the images in `data`, as they are there. Default False.
        tolerance: the largest difference allowed, as a share of the largest absolute output. Default None:
            measured as in `fold`, by what float32 rounds on the first 32 examples. Where that cannot be
            measured: 1e-5, 1e-2 in float16, 5e-2 in bfloat16.
        on_format: function that is called with the name of each format before it is written. Default None.
        quantize: None (default), or "float16" or "int8" to store the weights of the LiteRT file so, which
            makes it half or a quarter as large. With "int8", LiteRT computes in integers where it can, in
            ranges that the first 100 examples of `data` give; inputs and outputs stay float32. The
            rounding of both moves the outputs: that file is refused only if its outputs are not finite,
            are the same for all examples, or differ by more than a `tolerance` that was given.
        scale: the range in which `model` takes the pixels of `images`: "0..1", "0..255" or "-1..1".
            Default None: what the first layers show, such as "0..255" by a ``Rescaling(1 / 255)``, else the
            range of `data`, else "0..1". Where the layers are unclear and there are no `data`, an error
            asks for the range.

    Raises:
        TypeError: `model` is not a `keras.Model`, `tolerance` not a number, or `data` only readable once.
        ValueError: an argument is not as described, a package is missing, a conversion or a runtime fails,
            outputs differ by more than `tolerance`, they are the same for all examples, which proves
            nothing, or `data` are pixels of another range than `scale`.

    >>> import tempfile
    >>> from tfbn import Model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = export(Model(4, 2), folder + "/model")
    >>> [row["name"] for row in done.rows]
    ['keras', 'folded', 'savedmodel']
    """
    _check_formats(formats, images)
    _check_quantize(quantize, formats, data)
    if scale is not None and not images:
        raise ValueError(f"`scale` needs images=True. Received: scale={scale!r}.")
    if tolerance is not None:
        tolerance = arguments.positive_number("tolerance", tolerance)
    try:
        has_batchnorm = bool(inspection.find_batchnorms(model))
    except ValueError:
        if not model.built:
            raise
        has_batchnorm = False
    path = check_new_folder(path)
    proof = Proof(model, data, images, tolerance, scale, quantized="litert" if quantize else None)
    final: keras.Model = model
    folding: Any = "not asked for" if has_batchnorm else "no batch normalization layer"
    if fold and has_batchnorm:
        final = fold_within(model, proof.examples, proof.tolerance)
        folding = {name: getattr(final.folding, name) for name in ("folded", "kept", "difference")}
        proof.check_model("folded", final)
    distributions = importlib.metadata.packages_distributions()  # onnxruntime may come as onnxruntime-gpu.
    packages = [distributions[module][0] for name in formats for module in PACKAGES[name]]
    about = {
        "model": model.name,
        "examples": len(proof.examples),
        "data": "generated" if data is None else "given",
        "tolerance": {name: getattr(proof.tolerance, name) for name in ("value", "basis", "rounding")},
        "folding": folding,
        "quantize": quantize,
        "signatures": {},
        "scale": proof.scale,
        "scale_reason": proof.scale_reason,
        "device": describe_device("cpu:0"),
        "versions": versions() | {package: importlib.metadata.version(package) for package in packages},
    }
    with tempfile.TemporaryDirectory(prefix="tfbn-") as scratch, staged(path) as folder:
        folder.mkdir()
        for name in formats:
            if on_format is not None:
                on_format(name)
            file = folder / FILES[name]
            _convert(name, final, proof, file, quantize)
            about["signatures"][name] = proof.check_file(name, file, scratch)
        write_json(folder / "export.json", {**about, "rows": proof.rows})
    return Export(path, proof.rows, about)


def _check_formats(formats, images):
    valid = isinstance(formats, (list, tuple)) and formats and all(name in FILES for name in formats)
    if not valid or len(set(formats)) < len(formats):
        raise ValueError(
            f"`formats` must be a list of one or more of {', '.join(FILES)}, each once. "
            f"Received: formats={formats!r}."
        )
    if images and "savedmodel" not in formats:
        raise ValueError(f"`images` needs savedmodel among the formats. Received: formats={formats!r}.")
    for name in formats:
        missing = [package for package in PACKAGES[name] if not is_installed(package)]
        if missing:
            raise ValueError(
                f"The format {name} needs {', '.join(missing)}, which is not installed. "
                f"Run: pip install 'tfbn[{name}]'."
            )


def _check_quantize(quantize, formats, data):
    if quantize is None:
        return
    arguments.choice("quantize", quantize, QUANTIZATIONS)
    if "litert" not in formats:
        raise ValueError(f"`quantize` needs litert among the formats. Received: formats={formats!r}.")
    if quantize == "int8" and data is None:
        raise ValueError(
            "quantize='int8' needs real examples, from which the ranges of the integers are taken. "
            "Received: data=None. Pass them as `data`, or use quantize='float16'."
        )


def _converter_options(quantize, examples):
    """Return the attributes of TensorFlow's converter to LiteRT that quantize a model."""
    if quantize is None:
        return {}
    options: dict[str, Any] = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    if quantize == "float16":
        return options | {"target_spec": {"supported_types": [tf.float16]}}
    calibration = examples[:CALIBRATION_EXAMPLES]
    return options | {"representative_dataset": lambda: ([example[None]] for example in calibration)}


def _convert(name, model, proof, file, quantize=None):
    """Write `model` to `file` in the format `name`; an error ends with what the converter printed."""
    tf.get_logger()  # Made in there, it would lose its handler at the end.
    with output_captured() as printed:
        try:
            if name != "savedmodel":
                options = _converter_options(quantize, proof.examples) if name == "litert" else {}
                model.export(file, format=name, verbose=False, input_signature=[proof.spec], **options)
                return
            archive = keras.export.ExportArchive()
            archive.track(model)
            for endpoint, function in endpoint_functions(
                model, proof.spec, proof.head, proof.scale
            ).items():
                function.get_concrete_function()  # The archive takes functions that are traced.
                # Keras makes of the first one "serving_default", too; in Python it is `loaded.serve`.
                archive.add_endpoint(endpoint.replace("serving_default", "serve"), function)
            archive.write_out(file, verbose=False)
        except Exception as error:
            raise ValueError(
                f"Model {model.name!r} cannot be converted to {name}. Nothing was written. Choose other "
                f"`formats`. {type(error).__name__}: {first_line(error)}\n{printed()}".rstrip()
            ) from error
