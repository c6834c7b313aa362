"""An exported model in its own runtime, in a process of its own without tfbn and Keras.

::

    python -I runtimes.py KIND PATH IN.npz OUT.npz [FOLDER ...]

IN.npz holds batches by "ENDPOINT/SIZE". The script writes OUT.npz: the outputs by the same names, and under
"about" JSON of the signatures and of the milliseconds of a call. It finds packages in the folders, too.
"""

import functools
import json
import sys
import timeit

if __name__ == "__main__":
    # None makes an import fail. TensorFlow imports Keras where it can, but does not need it.
    sys.modules.update(tfbn=None, keras=None)  # type: ignore[call-overload]
    sys.path.extend(sys.argv[5:])

import numpy as np

TIMED_CALLS, WARM_UP_CALLS = 30, 5
TIMED_SIZES = (1, 32)  # batches
ONNX_TYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}


def measure(run, inputs):
    """Return the float32 outputs of ``run(endpoint, batch)``, and the median milliseconds of a call."""
    outputs, milliseconds = {}, {}
    for endpoint, batches in inputs.items():
        outputs[endpoint], milliseconds[endpoint] = {}, {}
        for size, batch in batches.items():
            outputs[endpoint][size] = np.asarray(run(endpoint, batch)).astype("float32")
            if size in TIMED_SIZES:
                call = functools.partial(run, endpoint, batch)
                times = timeit.repeat(call, number=1, repeat=WARM_UP_CALLS + TIMED_CALLS)
                milliseconds[endpoint][size] = 1000 * float(np.median(times[WARM_UP_CALLS:]))
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
        name: _signature(describe, endpoint.structured_input_signature[1], endpoint.structured_outputs)
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
            _tensor(d["name"], d["shape_signature"].tolist(), np.dtype(d["dtype"]).name) for d in details
        ]

    return run, {"serving_default": _signature(describe, inputs, outputs)}


def load_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()

    def run(endpoint, batch):
        return session.run(None, {inputs[0].name: batch})[0]

    def describe(nodes):
        return [_tensor(one.name, one.shape, ONNX_TYPES.get(one.type, one.type)) for one in nodes]

    return run, {"serving_default": _signature(describe, inputs, outputs)}


# Each returns a function of endpoint and batch, and the signatures by endpoint.
LOADERS = {"savedmodel": load_savedmodel, "litert": load_litert, "onnx": load_onnx}


def _signature(describe, inputs, outputs):
    return {"inputs": describe(inputs), "outputs": describe(outputs)}


def _tensor(name, shape, dtype):
    """Describe a tensor; a free size is None in TensorFlow, -1 in LiteRT and a name in ONNX."""
    shape = [size if isinstance(size, int) and size >= 0 else None for size in shape]
    return {"name": name, "shape": shape, "dtype": dtype}


def flat(nested):
    """Return values by endpoint and size as values by "ENDPOINT/SIZE"."""
    return {f"{name}/{size}": value for name, values in nested.items() for size, value in values.items()}


def nested(flat):
    """Return values by "ENDPOINT/SIZE" as values by endpoint and size."""
    nested = {}
    for key, value in flat.items():
        name, size = key.split("/")
        nested.setdefault(name, {})[int(size)] = value
    return nested


def main(kind, path, source, destination, *_):
    run, signatures = LOADERS[kind](path)
    with np.load(source) as inputs:
        outputs, milliseconds = measure(run, nested(inputs))
    about = json.dumps({"signatures": signatures, "milliseconds": flat(milliseconds)})
    np.savez(destination, about=about, **flat(outputs))


if __name__ == "__main__":
    main(*sys.argv[1:])
