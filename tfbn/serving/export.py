"""`export`: a finished model as files that other programs run, each checked in the runtime it is for."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from tfbn.foundation import arguments
from tfbn.foundation.files import check_new_folder, staged, write_json
from tfbn.foundation.provenance import versions
from tfbn.foundation.tables import text_table
from tfbn.layers import inspection
from tfbn.runtime.devices import describe_device
from tfbn.serving.formats import FILES, check_formats, convert, package_versions, run_isolated
from tfbn.serving.proof import Proof
from tfbn.transforms.fold import fold as fold_model


@dataclass
class Export:
    """The files that `export` wrote, and how they compare with the model.

    Attributes:
        path: the folder.
        rows: a dict for the Keras model, for the folded one, and for each endpoint of each format: name,
            file, bytes (of the Keras models: of the weights), difference (the largest from the Keras
            model's outputs, as a share of the largest output), tolerance, and milliseconds, a dict of
            batch size to the median time of a call.
        about: where it comes from: model, examples and whether data was given, what folding did,
            signatures by format, device, versions.
    """

    path: Path
    rows: list[dict]
    about: dict[str, Any] = field(repr=False)

    def table(self) -> str:
        """Return the rows as a text table, as wide as the terminal."""
        sizes = list(self.rows[0]["milliseconds"])
        header = ["", "file", "kB", "difference", *(f"ms, batch of {size}" for size in sizes)]
        rows = [
            [
                row["name"],
                row["file"] or "-",
                f"{row['bytes'] / 1000:,.1f}",
                f"{row['difference']:.1e}",
                *(f"{row['milliseconds'][size]:.3f}" for size in sizes),
            ]
            for row in self.rows
        ]
        return text_table(header, rows, numeric=range(2, len(header)))


def export(
    model: keras.Model,
    path: str | os.PathLike,
    formats: list[str] | tuple[str, ...] = ("savedmodel",),
    fold: bool = True,
    data: Any = None,
    images: bool = False,
    tolerance: float = 1e-5,
    on_format: Callable[[str], object] | None = None,
) -> Export:
    """Write `model` to the folder `path` in one or more formats that need neither tfbn nor Keras.

    ::

        savedmodel/  model.tflite  model.onnx  export.json

    Each file is loaded by its own runtime in a fresh process that cannot import tfbn and Keras. Its outputs
    are compared with those of `model` on batches of 1, 3, 32 and all examples, and calls are timed, on the
    CPU, with each runtime's default threads. The folder appears only if every comparison is within
    `tolerance`. Otherwise, or if the export is interrupted, nothing is left.

    A SavedModel is called as ``tf.saved_model.load(path + "/savedmodel").serve(x)``, or by its signature
    "serving_default" with an input `inputs`. The batch size is free in all formats, as are other sizes that
    the model leaves free (in LiteRT by `resize_tensor_input`). Inputs of floats are float32, also in half
    precision; outputs are as the model gives them. LiteRT does not run Keras' half precision, nor ONNX
    Runtime its bfloat16, and neither runs every operation.

    Args:
        model: a built model of one input and one output tensor.
        path: the folder to write. It must not exist, or be empty.
        formats: names of formats: "savedmodel" (default; TensorFlow and its servers), "litert" (phones
            and small devices; needs ``pip install 'tfbn[litert]'``) and "onnx" (ONNX Runtime; needs
            ``pip install 'tfbn[onnx]'``).
        fold: whether batch norm is first folded into the layers beside it. Default True: that is faster
            and changes the outputs by rounding only. A model without batch norm is exported as is.
        data: examples to compare by, in any form that `recalibrate` takes. The first 256 are used, of a
            Dataset the first batch; real ones are the better proof. Default None: 64 drawn from a standard
            normal distribution by a fixed seed, for inputs of floats and of a fixed shape.
        images: whether the SavedModel gets a second signature, "serve_images". It divides uint8 pixels
            ``[N, ...]`` by 255 and returns probabilities: softmax of the model's outputs (sigmoid of a
            single one), or the outputs themselves if the model ends in softmax or sigmoid. Default False.
        tolerance: the largest difference allowed, as a share of the largest absolute output. Default
            1e-5, a few roundings in float32. Half precision needs 1e-2 to 5e-2.
        on_format: function that is called with the name of each format before it is written. Default None.

    Returns:
        An `Export`, whose `table()` shows sizes, differences and times.

    Raises:
        TypeError: `model` is not a `keras.Model`, `tolerance` not a number, or `data` only readable once.
        ValueError: an argument is not as described, a package is missing, a conversion or a runtime fails,
            or outputs differ by more than `tolerance`.

    >>> import tempfile
    >>> from tfbn import Model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = export(Model(4, 2), folder + "/model")
    >>> [row["name"] for row in done.rows]
    ['keras', 'folded', 'savedmodel']
    """
    check_formats(formats, images)
    tolerance = arguments.positive_number("tolerance", tolerance)
    has_batchnorm = _has_batchnorm(model)
    path = check_new_folder(path)
    proof = Proof(model, data, images, tolerance)
    final: keras.Model = model
    folding: Any = "not asked for" if has_batchnorm else "no batch normalization layer"
    if fold and has_batchnorm:
        final = fold_model(model, proof.examples, tolerance)
        folding = {name: getattr(final.folding, name) for name in ("folded", "kept", "difference")}
        proof.check_model("folded", final)
    about = {
        "model": model.name,
        "examples": len(proof.examples),
        "data": "generated" if data is None else "given",
        "folding": folding,
        "signatures": {},
        "device": describe_device("cpu:0"),
        "versions": versions() | package_versions(formats),
    }
    with tempfile.TemporaryDirectory(prefix="tfbn-") as scratch, staged(path) as folder:
        folder.mkdir()
        for name in formats:
            if on_format is not None:
                on_format(name)
            file = folder / FILES[name]
            convert(name, final, proof.endpoints, file)
            # The other formats have no signature for images.
            endpoints = proof.batches if name == "savedmodel" else ["serving_default"]
            batches = {endpoint: proof.batches[endpoint] for endpoint in endpoints}
            *results, about["signatures"][name] = run_isolated(name, file, batches, scratch)
            proof.check(name, file.name, _file_bytes(file), *results)
        write_json(folder / "export.json", {**about, "rows": proof.rows})
    return Export(path, proof.rows, about)


def _has_batchnorm(model: keras.Model) -> bool:
    try:
        return bool(inspection.find_batchnorms(model))
    except ValueError:
        if not model.built:
            raise
        return False


def _file_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
