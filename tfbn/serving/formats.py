"""The formats that `export` writes: the file of each, what it needs, and the runtime that it is for."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbn.foundation.errors import first_line, last_line
from tfbn.foundation.provenance import is_installed
from tfbn.foundation.silence import output_captured
from tfbn.serving import runtimes
from tfbn.serving.proof import ByEndpoint, Endpoints

# By format: its file, and the packages that write and run it. tfbn's extra of the same name installs them.
FILES = {"savedmodel": "savedmodel", "litert": "model.tflite", "onnx": "model.onnx"}
PACKAGES = {"savedmodel": (), "litert": ("ai_edge_litert",), "onnx": ("tf2onnx", "onnx", "onnxruntime")}
LONGEST_REASON = 1000  # characters: ONNX Runtime names the operation at the end of a long line


def check_formats(formats: Any, images: bool) -> None:
    """Raise ValueError unless `formats` can be written, with a signature for images if `images`."""
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


def package_versions(formats: Collection[str]) -> dict[str, str]:
    """Return the versions of the packages that these formats need."""
    names = importlib.metadata.packages_distributions()  # onnxruntime may come as onnxruntime-gpu.
    packages = [names[module][0] for name in formats for module in PACKAGES[name]]
    return {package: importlib.metadata.version(package) for package in packages}


def convert(name: str, model: keras.Model, endpoints: Endpoints, file: Path) -> None:
    """Write `model` to `file` in the format `name`.

    Raises:
        ValueError: the conversion failed. The message ends with what the converter printed.
    """
    tf.get_logger()  # Made later, it would keep the stream that stands in while output is captured.
    with output_captured() as printed:
        try:
            if name != "savedmodel":
                model.export(file, format=name, verbose=False, input_signature=[endpoints.spec])
                return
            archive = keras.export.ExportArchive()
            archive.track(model)
            for endpoint, function in endpoints.compile(model).items():
                function.get_concrete_function()  # The archive takes functions that are traced.
                # Keras makes of the first one "serving_default", too; in Python it is `loaded.serve`.
                archive.add_endpoint(endpoint.replace("serving_default", "serve"), function)
            archive.write_out(file, verbose=False)
        except Exception as error:
            raise ValueError(
                f"Model {model.name!r} cannot be converted to {name}. Nothing was written. Choose other "
                f"`formats`. {type(error).__name__}: {first_line(error)}\n{printed()}".rstrip()
            ) from error


def run_isolated(
    name: str, file: Path, batches: ByEndpoint, scratch: str
) -> tuple[ByEndpoint, ByEndpoint, dict[str, Any]]:
    """Run the model in `file` in its own runtime and process, on the CPU.

    Returns:
        Outputs, milliseconds, and signatures by endpoint.

    Raises:
        ValueError: the runtime failed.
    """
    source, destination = Path(scratch, "in.npz"), Path(scratch, "out.npz")
    np.savez(source, **runtimes.flat(batches))
    process = subprocess.run(
        [sys.executable, "-I", runtimes.__file__, name, file, source, destination, *sys.path],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise ValueError(
            f"The runtime of {name} cannot run the model. Nothing was written. Choose other `formats`. "
            f"(Exit code {process.returncode}) {last_line(process.stderr, longest=LONGEST_REASON)}"
        )
    with np.load(destination) as arrays:
        outputs = dict(arrays)
    about = json.loads(str(outputs.pop("about")))
    return runtimes.nested(outputs), runtimes.nested(about["milliseconds"]), about["signatures"]
