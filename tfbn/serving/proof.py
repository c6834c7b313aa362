"""The proof of an export: each format gives the outputs of the Keras model on the same batches."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbn.data.adapters import adjusted_rank, batch_reader
from tfbn.diagnosis.pixels import pixel_range
from tfbn.foundation.errors import last_line
from tfbn.foundation.pixels import from_pixels, to_pixels
from tfbn.layers.outputs import gives_probabilities
from tfbn.serving import runtimes
from tfbn.transforms.fold import COMPARED_EXAMPLES
from tfbn.transforms.tolerances import TOLERANCES, Tolerance, check_exercised, measure

COMPARED_SIZES = (1, 3, 32)  # batches, besides the batch of all examples
GENERATED_EXAMPLES, MOST_EXAMPLES = 64, 256
WHOLE_PIXEL = 0.01  # how far pixels may be off and still be whole ones
LONGEST_REASON = 1000  # characters: ONNX Runtime names the operation at the end of a long line


class Proof:
    """The outputs of a Keras model, which each format must repeat.

    Attributes:
        examples, batches: the inputs; batches of them and of images, by endpoint and size.
        labels: those of the examples, as they were given, or None.
        tolerance: the `Tolerance` of the outputs.
        spec: a batch of inputs, of any size.
        scale, scale_reason: the range in which the model is fed the pixels of images, and how it is known;
            None without images.
        head: function that makes probabilities of the model's outputs; None without images.
        expected: the outputs of the model.
        rows: what was compared so far; `Export` explains the keys.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Any,
        images: bool,
        tolerance: float | None,
        scale: str | None = None,
        quantized: str | None = None,
    ):
        self.model_name, self.quantized = model.name, quantized
        self.examples, self.labels, self.spec = _examples(model, data)
        self.tolerance = _tolerance(model, self.examples, tolerance)
        self.batches = {"serving_default": _batches(self.examples)}
        self.head = self.scale = self.scale_reason = None
        if images:
            given = None if data is None else self.examples
            self.scale, self.scale_reason = _scale(model, self.spec, scale, given)
            self.head = probabilities_head(model, self.examples)
            pixels, fed = _images(self.examples, self.scale, data is not None)
            self.batches["serve_images"], self._fed = _batches(pixels), _batches(fed)
        self.rows: list[dict] = []
        self.expected: dict[str, dict[int, np.ndarray]] = {}
        self.check_model("keras", model)
        self._check_exercised(self.expected, model.name)

    def check_model(self, name: str, model: keras.Model) -> None:
        """Add rows for a Keras model. The outputs of the first one are expected of all that follow."""
        functions = endpoint_functions(model, self.spec, self.head, self.scale)
        # The runtimes are on the CPU, too: a GPU rounds differently.
        with tf.device("cpu:0"):
            outputs, milliseconds = runtimes.measure(
                lambda endpoint, batch: functions[endpoint](tf.constant(batch)).numpy(), self.batches
            )
            if not self.expected and self.head:
                # Not by the signature itself, which could be wrong about the range of pixels.
                fed = {
                    size: self.head(tf.cast(functions["serving_default"](tf.constant(batch)), "float32"))
                    for size, batch in self._fed.items()
                }
                self.expected = {**outputs, "serve_images": {size: x.numpy() for size, x in fed.items()}}
        self.expected = self.expected or outputs
        if not all(np.isfinite(x).all() for by_size in self.expected.values() for x in by_size.values()):
            raise ValueError(
                f"Model {model.name!r} itself gives outputs that are not finite. Check its weights and "
                "`data`."
            )
        size = sum(weight.numpy().nbytes for weight in model.weights)
        self._check(name, None, size, outputs, milliseconds)

    def check_file(self, name: str, file: Path, scratch: str) -> dict[str, Any]:
        """Add rows for the file of the format `name`, and return its signatures."""
        # The other formats have no signature for images.
        endpoints = self.batches if name == "savedmodel" else ["serving_default"]
        batches = {endpoint: self.batches[endpoint] for endpoint in endpoints}
        outputs, milliseconds, signatures = _run_isolated(name, file, batches, scratch)
        size = sum(part.stat().st_size for part in [file, *file.rglob("*")] if part.is_file())
        self._check(name, file.name, size, outputs, milliseconds)
        return signatures

    def _check(self, name, file, size, outputs, milliseconds):
        """Add a row for each endpoint, with the `size` of the file in bytes."""
        is_exact = name != self.quantized
        if not is_exact:
            self._check_exercised(outputs, f"{name}, {self.model_name} quantized")
        allowed = self.tolerance.value if is_exact or self.tolerance.basis == "given" else None
        for endpoint in outputs:
            row = {
                "name": name if endpoint == "serving_default" else f"{name} images",
                "file": file,
                "bytes": size,
                "difference": difference(outputs[endpoint], self.expected[endpoint]),
                "tolerance": allowed,
                "milliseconds": milliseconds[endpoint],
                "same_class": None,
                "accuracy": None,
            }
            if endpoint == "serving_default":
                row |= self._scores(self._of_examples(outputs))
            self.rows.append(row)
            if not row["difference"] <= (np.finfo("float64").max if allowed is None else allowed):
                raise ValueError(self._too_different(row, allowed))

    def _of_examples(self, outputs):
        """Return the outputs for all examples."""
        return outputs["serving_default"][len(self.examples)]

    def _check_exercised(self, outputs, name):
        check_exercised(self.examples, [self._of_examples(outputs)], self.tolerance, name)

    def _scores(self, outputs):
        """Return the shares of examples with the class of the Keras model, and with that of the labels."""
        expected = self._of_examples(self.expected)
        if not _are_classes(expected) or outputs.shape != expected.shape:
            return {}
        predicted = outputs.argmax(-1)
        scores = {"same_class": float(np.mean(predicted == expected.argmax(-1)))}
        labels = _classes(self.labels, expected.shape)
        return scores if labels is None else scores | {"accuracy": float(np.mean(predicted == labels))}

    def _too_different(self, row, allowed):
        message = (
            f"The outputs of {row['name']} differ by {row['difference']:.1e} of the largest output of "
            f"model {self.model_name!r}; "
        )
        if allowed is None:
            return (
                f"{message}they are not finite or not of its shape. Nothing was written. Use quantize=None."
            )
        rounding = self.tolerance.rounding
        cause = "" if rounding is None else f" Rounding in float32 alone moves them by {rounding:.1e}."
        return (
            f"{message}allowed is tolerance={allowed:.1e}.{cause} Nothing was written. Use a larger "
            "`tolerance` if rounding explains it, as in half precision; else choose other `formats`."
        )


def endpoint_functions(
    model: keras.Model,
    spec: tf.TensorSpec,
    head: Callable[[tf.Tensor], tf.Tensor] | None,
    scale: str | None = "0..1",
) -> dict[str, Any]:
    """Compile "serving_default", and "serve_images" if there is a `head`, each once for all batch sizes.

    `scale` is the range in which the model takes pixels.
    """

    def serve(x):
        outputs = model(x, training=False)
        if not tf.is_tensor(outputs):
            raise ValueError(
                f"A model must have one output to be exported. {model.name!r} gives {outputs!r}."
            )
        return outputs

    def serve_images(pixels):
        x = from_pixels(tf.cast(pixels, "float32"), scale)
        return head(tf.cast(serve(tf.cast(x, spec.dtype)), "float32"))

    calls = {"serving_default": (serve, spec)}
    if head:
        calls["serve_images"] = serve_images, tf.TensorSpec(spec.shape, "uint8", name="images")
    return {name: tf.function(call, [spec], autograph=False) for name, (call, spec) in calls.items()}


def _run_isolated(name, file, batches, scratch):
    """Return outputs, milliseconds and signatures of `file` in its runtime, a new process on the CPU."""
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


def difference(outputs: dict[int, np.ndarray], expected: dict[int, np.ndarray]) -> float:
    """Return the largest difference, as a share of the largest output; infinite where a shape differs."""
    largest = max(np.abs(wanted).max() for wanted in expected.values()) or 1.0
    differences = [
        np.abs(outputs[size] - wanted).max() if outputs[size].shape == wanted.shape else np.inf
        for size, wanted in expected.items()
    ]
    return float(np.max(differences) / largest)


def probabilities_head(model: keras.Model, examples: np.ndarray) -> Callable:
    """Return the function that makes probabilities of the outputs of `model`."""
    outputs = np.asarray(model(examples, training=False), "float32")
    if gives_probabilities(model, examples, outputs):
        return tf.identity
    return tf.sigmoid if outputs.shape[-1] == 1 else tf.nn.softmax


def _tolerance(model, examples, tolerance):
    """Return the `Tolerance` that was given, or else measured."""
    if tolerance is not None:
        return Tolerance(tolerance, "given")
    with tf.device("cpu:0"):
        measured = measure(model, examples[:COMPARED_EXAMPLES])
    # No runtime computes in float64.
    least = 0 if measured.basis == "measured" else TOLERANCES["float32"]
    return dataclasses.replace(measured, value=max(measured.value, least))


def _are_classes(outputs):
    return outputs.ndim == 2 and outputs.shape[1] > 1


def _classes(labels, shape):
    """Return labels, integers or one-hot, as classes; None if they are not the labels of classes."""
    if labels is None or isinstance(labels, (dict, list)):
        return None
    labels = np.asarray(labels)[: shape[0]]
    if labels.shape == tuple(shape):
        return labels.argmax(-1)
    return labels.ravel() if labels.shape in ((shape[0],), (shape[0], 1)) else None


def _scale(model, spec, scale, examples):
    """Return the range of pixels that `model` takes, and the reason; integers are pixels of 0..255 only."""
    # Other integers may be anything, words for example.
    if not spec.dtype.is_floating and spec.dtype != tf.uint8 and scale != "0..255":
        raise ValueError(
            f"`images` needs a model that takes floats or uint8. {model.name!r} takes {spec.dtype.name}. "
            "Use scale='0..255' if these are pixels."
        )
    return pixel_range(model, scale, examples if spec.dtype.is_floating else None)


def _images(examples, scale, given):
    """Return uint8 images, and the same as a user feeds them to the model: `examples` where they are whole.

    Without `given` examples the images are random.
    """
    if not given:
        pixels = np.random.default_rng(1).integers(0, 256, examples.shape, "uint8")
        return pixels, from_pixels(pixels.astype("float32"), scale).astype(examples.dtype)
    pixels = to_pixels(examples, scale)
    fed = from_pixels(pixels.astype("float32"), scale).astype(examples.dtype)
    step = from_pixels(1, scale) - from_pixels(0, scale)
    return pixels, examples if np.abs(fed - examples).max() <= WHOLE_PIXEL * step else fed


def _batches(x):
    """Return batches of the examples `x` by their sizes."""
    return {size: np.resize(x, (size, *x.shape[1:])) for size in sorted({*COMPARED_SIZES, len(x)})}


def _examples(model, data):
    """Return examples to compare by, their labels or None, and a specification of a batch of any size."""
    inputs, outputs = (getattr(model, name, None) or [None] for name in ("inputs", "outputs"))
    shape, dtype = (inputs[0].shape[1:], inputs[0].dtype) if inputs[0] is not None else (None, "float32")
    dtype = tf.float32 if tf.as_dtype(dtype).is_floating else tf.as_dtype(dtype)
    batch, labels = (None, None) if data is None else next(batch_reader(model, data, MOST_EXAMPLES)())
    x = [] if batch is None else tf.nest.flatten(batch)
    if max(len(inputs), len(outputs), len(x)) > 1:
        raise ValueError(
            f"A model must have one input and one output to be exported. {model.name!r} has "
            f"{max(len(inputs), len(x))} and {len(outputs)}. Use Keras' own `model.export`."
        )
    if x:
        examples = np.asarray(x[0])[:MOST_EXAMPLES].astype(dtype.as_numpy_dtype)
        if shape is None:
            shape = examples.shape[1:]
        examples = examples.reshape(len(examples), *adjusted_rank(examples.shape[1:], len(shape)))
    elif shape is None or None in shape or not dtype.is_floating:
        raise ValueError(
            f"No examples can be generated for model {model.name!r}, which does not take floats of a "
            "known, fixed shape. Give some as `data`."
        )
    else:
        examples = np.random.default_rng(0).standard_normal([GENERATED_EXAMPLES, *shape]).astype("float32")
    return examples, labels, tf.TensorSpec([None, *shape], dtype, name="inputs")
