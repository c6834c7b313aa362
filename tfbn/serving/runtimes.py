"""An exported model in its own runtime, in a process of its own without tfbn and Keras.

::

    python -I runtimes.py KIND PATH IN.npz OUT.npz [FOLDER ...]

IN.npz holds batches by "ENDPOINT/SIZE". OUT.npz gets the outputs by the same names, and under "about" JSON
of the signatures and of the milliseconds a call took. The folders are further ones to find packages in.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    # None makes an import fail. TensorFlow takes Keras along where it can, but does without.
    sys.modules.update(tfbn=None, keras=None)
    sys.path.extend(sys.argv[5:])

import numpy as np

CALLS, WARM_UP = 30, 5
TIMED = (1, 32)  # Batch sizes.
ONNX_TYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}


def run_elsewhere(kind, path, inputs, scratch):
    """Run the model at `path` on `inputs`, batches by endpoint and size, in another process, on the CPU.

    Returns:
        Outputs, milliseconds, each by endpoint and size, and the signatures by endpoint.

    Raises:
        ValueError: the runtime failed.
    """
    source, destination = Path(scratch, "in.npz"), Path(scratch, "out.npz")
    np.savez(source, **_flat(inputs))
    process = subprocess.run(
        [sys.executable, "-I", __file__, kind, path, source, destination, *sys.path],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ValueError(
            f"The runtime of {kind} cannot run the model. Nothing was written. Choose other `formats`. "
            f"(Exit code {process.returncode}) {reason[:1000]}"
        )
    with np.load(destination) as found:
        outputs = dict(found)
    about = json.loads(str(outputs.pop("about")))
    return _nested(outputs), _nested(about["milliseconds"]), about["signatures"]


def measure(run, inputs):
    """The outputs of ``run(endpoint, batch)``, float32, and the median milliseconds of a call."""
    outputs, milliseconds = {}, {}
    for endpoint, batches in inputs.items():
        outputs[endpoint], milliseconds[endpoint] = {}, {}
        for size, batch in batches.items():
            outputs[endpoint][size] = np.asarray(run(endpoint, batch)).astype("float32")
            if size in TIMED:
                times = []
                for _ in range(WARM_UP + CALLS):
                    start = time.perf_counter()
                    run(endpoint, batch)
                    times.append(time.perf_counter() - start)
                milliseconds[endpoint][size] = 1000 * float(np.median(times[WARM_UP:]))
    return outputs, milliseconds


def load_savedmodel(path):
    import tensorflow as tf

    endpoints = dict(tf.saved_model.load(path).signatures)

    def run(endpoint, batch):
        (name,) = endpoints[endpoint].structured_input_signature[1]
        (output,) = endpoints[endpoint](**{name: tf.constant(batch)}).values()
        return output.numpy()

    def describe(specs):
        return [_tensor(name, spec.shape.as_list(), spec.dtype.name) for name, spec in specs.items()]

    return run, {
        name: {
            "inputs": describe(endpoint.structured_input_signature[1]),
            "outputs": describe(endpoint.structured_outputs),
        }
        for name, endpoint in endpoints.items()
    }


def load_litert(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    shape = None

    def run(endpoint, batch):
        nonlocal shape
        if shape != batch.shape:
            shape = batch.shape
            interpreter.resize_tensor_input(inputs[0]["index"], shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(inputs[0]["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(outputs[0]["index"])

    def describe(details):
        return [
            _tensor(one["name"], one["shape_signature"].tolist(), np.dtype(one["dtype"]).name)
            for one in details
        ]

    return run, {"serving_default": {"inputs": describe(inputs), "outputs": describe(outputs)}}


def load_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()

    def run(endpoint, batch):
        return session.run(None, {inputs[0].name: batch})[0]

    def describe(nodes):
        return [_tensor(one.name, one.shape, ONNX_TYPES.get(one.type, one.type)) for one in nodes]

    return run, {"serving_default": {"inputs": describe(inputs), "outputs": describe(outputs)}}


RUNTIMES = {"savedmodel": load_savedmodel, "litert": load_litert, "onnx": load_onnx}


def _tensor(name, shape, dtype):
    """A free size is None in TensorFlow, -1 in LiteRT and a name in ONNX."""
    shape = [size if isinstance(size, int) and size >= 0 else None for size in shape]
    return {"name": name, "shape": shape, "dtype": dtype}


def _flat(nested):
    return {f"{name}/{size}": value for name, values in nested.items() for size, value in values.items()}


def _nested(flat):
    nested = {}
    for key, value in flat.items():
        name, size = key.split("/")
        nested.setdefault(name, {})[int(size)] = value
    return nested


def main(kind, path, source, destination, *_):
    run, signatures = RUNTIMES[kind](path)
    with np.load(source) as inputs:
        outputs, milliseconds = measure(run, _nested(inputs))
    about = json.dumps({"signatures": signatures, "milliseconds": _flat(milliseconds)})
    np.savez(destination, about=about, **_flat(outputs))


if __name__ == "__main__":
    main(*sys.argv[1:])
