"""Measure how exact the layer is in float32, beside Keras': python benchmarks/accuracy.py

For every mean and standard deviation of the input the largest error of the output, the moving mean and
variance, dx, dgamma and dbeta, relative to the scale of the float64 result of `reference.py`. Two logical
CPUs stand for two replicas.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tfbn
from tfbn.foundation.tables import text_table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import reference

MEANS, STDDEVS = (0.0, 1.0, 1e2, 1e3, 1e4), (1e-2, 1.0, 1e2)
PARTS = ("y", "moving_mean", "moving_variance", "dx", "dgamma", "dbeta")
SHAPES = {
    "dense 256x8": ((256, 8), -1),
    "dense 4096x256": ((4096, 256), -1),
    "images 16x8x8x4": ((16, 8, 8, 4), -1),
    "images 64x32x32x32": ((64, 32, 32, 32), -1),
    "channels first 16x4x8x8": ((16, 4, 8, 8), 1),
}
COMPILATIONS = {
    "eager": lambda step: step,
    "graph": tf.function,
    "XLA": lambda step: tf.function(step, jit_compile=True),
}


def data(shape, mean, stddev):
    rng = np.random.default_rng(0)
    x = (mean + stddev * rng.normal(size=shape)).astype("float32")
    return x, rng.normal(size=shape).astype("float32"), rng.random(shape[:1]) < 0.7


def step_of(layer, masked):
    def step(x, dy, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask if masked else None)
        return y, *tape.gradient(y, [x, layer.gamma, layer.beta], dy)

    return step


def on_one_device(kind, shape, axis, compilation, masked):
    layer = kind(axis=axis, momentum=0.5)
    layer.build(shape)
    initial = layer.get_weights()
    run = COMPILATIONS[compilation](step_of(layer, masked))

    def measure(x, dy, mask):
        layer.set_weights(initial)
        mask = np.broadcast_to(mask.reshape(-1, *[1] * (x.ndim - 2)), x.shape[:-1])  # as Keras has it
        y, *gradients = run(tf.constant(x), tf.constant(dy), tf.constant(mask))
        return dict(zip(PARTS, (y, layer.moving_mean, layer.moving_variance, *gradients), strict=True))

    return measure


def on_two_replicas(kind, shape, strategy, masked):
    with strategy.scope():
        layer = kind(momentum=0.5, synchronized=True)
        layer.build(shape)
    initial = layer.get_weights()
    run = tf.function(lambda *arguments: strategy.run(step_of(layer, masked), arguments))

    def measure(x, dy, mask):
        layer.set_weights(initial)
        mask = np.broadcast_to(mask.reshape(-1, *[1] * (x.ndim - 2)), x.shape[:-1])
        split = 3 * len(x) // 8
        shards = [
            strategy.experimental_distribute_values_from_function(
                lambda context, v=v: tf.constant(np.split(v, [split])[context.replica_id_in_sync_group])
            )
            for v in (x, dy, mask)
        ]
        y, dx, dgamma, dbeta = map(strategy.experimental_local_results, run(*shards))
        averages = [
            strategy.experimental_local_results(weight.value)[0]
            for weight in (layer.moving_mean, layer.moving_variance)
        ]
        parts = (tf.concat(y, 0), *averages, tf.concat(dx, 0), sum(dgamma), sum(dbeta))
        return dict(zip(PARTS, parts, strict=True))

    return measure


def worst(measure, shape, axis, masked):
    """Return the largest error of all parts, and its part, mean and standard deviation."""
    errors = []
    for mean in MEANS:
        for stddev in STDDEVS:
            x, dy, mask = data(shape, mean, stddev)
            weight = np.broadcast_to(mask.reshape(-1, *[1] * (x.ndim - 1)), x.shape) if masked else None
            y, batch_mean, variance = reference.forward(x, 1, 0, 1e-3, axis, weight)
            averages = 0.5 * batch_mean, 0.5 + 0.5 * variance
            expected = (y, *averages, *reference.backward(x, dy, 1, 1e-3, axis, weight))
            measured = measure(x, dy, mask)
            for part, right in zip(PARTS, expected, strict=True):
                wrong = reference.error(np.reshape(measured[part], right.shape), right)
                errors.append((wrong, f"{part} at mean {mean:g}, deviation {stddev:g}"))
    return max(errors)


def main():
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])
    kinds = {"tfbn": tfbn.BatchNormalization, "Keras": keras.layers.BatchNormalization}
    rows, ours = [], []
    for name, (shape, axis) in SHAPES.items():
        for masked in (False, True):
            for compilation in (*COMPILATIONS, *(["two replicas"] if axis == -1 else [])):
                title = f"{name}, {compilation}{', masked' if masked else ''}"
                print(title, file=sys.stderr)
                errors = {}
                for kind in kinds:
                    if compilation == "two replicas":
                        measure = on_two_replicas(kinds[kind], shape, strategy, masked)
                    else:
                        measure = on_one_device(kinds[kind], shape, axis, compilation, masked)
                    errors[kind] = worst(measure, shape, axis, masked)
                ours.append(errors["tfbn"][0])
                numbers = [f"{error:.1e}" for error, _ in errors.values()]
                rows.append([title, *numbers, *(place for _, place in errors.values())])
    print(f"means {MEANS}, standard deviations {STDDEVS}: largest error, relative to the result's scale")
    print(text_table(["", *kinds, "worst of tfbn", "worst of Keras"], rows, numeric=[1, 2]))
    print(f"largest of tfbn: {max(ours):.2e}, to be 2e-06 or less")
    sys.exit(int(max(ours) > 2e-6))


if __name__ == "__main__":
    main()
