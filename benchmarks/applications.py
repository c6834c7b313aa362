"""Fold and export twelve of Keras' applications: python benchmarks/applications.py [NAME ...]

Weights are random, statistics are those of random images, moved at random. The table has the differences
of the folded model and of its SavedModel, the measured tolerances, and what becomes of the same export when
one kernel of the folded model is off by 1e-3.
"""

import os
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tfbn
from tfbn.foundation.tables import text_table
from tfbn.layers import inspection
from tfbn.serving import runtimes
from tfbn.transforms import plan

SIZES = {  # the least that each takes
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "NASNetMobile": 32,
    "InceptionResNetV2": 75,
    "Xception": 71,
    "InceptionV3": 75,
}
EXAMPLES, WRONG_SHARE = 32, 1e-3


def application(name, size, rng):
    """Return a network whose layers all see something, and images for it."""
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classifier_activation=None)
    x = rng.uniform(0, 255, [EXAMPLES, size, size, 3]).astype("float32")
    norms = inspection.find_batchnorms(model)
    for norm in norms:
        norm.momentum = 0.0
    model(x, training=True)
    for norm in norms:
        mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
        norm.moving_mean.assign(mean + 0.1 * np.sqrt(variance) * rng.normal(size=mean.shape))
        norm.moving_variance.assign(variance * rng.uniform(0.5, 1.5, mean.shape))
        if norm.scale:
            norm.gamma.assign(rng.uniform(0.5, 1.5, mean.shape))
        if norm.center:
            norm.beta.assign(0.1 * rng.normal(size=mean.shape))
    return model, x


def export(model, x):
    """Return the export, or the error's message, and its seconds."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = tfbn.export(model, folder + "/new", data=x)
        except ValueError as error:
            result = str(error)
    return result, time.perf_counter() - start


def wrong_fold(layer_number):
    """Return `_fold_into_previous` with an error in one kernel."""
    right, calls = plan._fold_into_previous, []

    def fold(layer, weights, *rest):
        right(layer, weights, *rest)
        calls.append(layer)
        if len(calls) == layer_number:
            weights[-2] = weights[-2] * (1 + WRONG_SHARE)

    return right, fold


def main():
    runtimes.TIMED_CALLS, runtimes.WARM_UP_CALLS = 1, 0  # of the Keras models
    rows, failures = [], 0
    for name in sys.argv[1:] or SIZES:
        model, x = application(name, SIZES.get(name, 96), np.random.default_rng(0))
        start = time.perf_counter()
        folded = tfbn.fold(model, x)
        fold_seconds = time.perf_counter() - start
        result, seconds = export(model, x)
        passed = isinstance(result, tfbn.Export)
        right, plan._fold_into_previous = wrong_fold(len(folded.folding.folded) // 2)
        wrong, _ = export(model, x)
        plan._fold_into_previous = right
        refused = isinstance(wrong, str) and "folded model's outputs differ" in wrong
        failures += not (passed and refused)
        row = [name, folded.folding.difference, folded.folding.tolerance]
        row += [result.rows[-1]["difference"], result.rows[-1]["tolerance"]] if passed else [np.nan, np.nan]
        texts = [row[0], *(f"{value:.1e}" for value in row[1:])]
        texts += [f"{fold_seconds:.0f}", f"{seconds:.0f}", "passes" if passed else result[:90]]
        rows.append([*texts, "refused" if refused else "not seen"])
        print(*rows[-1], wrong if refused else "", file=sys.stderr, sep=" | ", flush=True)
    titles = ["", "fold", "tolerance", "file", "tolerance", "s fold", "s export", "export", "wrong kernel"]
    print(text_table(titles, rows, numeric=range(1, 7)))
    sys.exit(int(failures > 0))


if __name__ == "__main__":
    main()
