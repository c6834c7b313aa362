import numpy as np
import pytest

import tfbn

# Recorded from torch 2.13.0: BatchNorm2d(3, eps=1e-3, momentum=0.3) after one training step on INPUT.
INPUT = (np.arange(24).reshape(2, 3, 2, 2) ** 2 % 17).astype("float32")
STATE = {
    "weight": [1.0, 2.0, 0.5],
    "bias": [0.0, -1.0, 3.0],
    "running_mean": [1.9125000, 1.7625000, 2.9250002],
    "running_var": [8.8375006, 13.1660719, 9.7642860],
    "num_batches_tracked": 1,
}
OUTPUT = [
    [[-0.643298, -0.306933], [0.702162, 2.383986]],
    [[6.847280, 2.437921], [-0.869097, 6.296110]],
    [[4.612028, 4.612028], [4.932034, 2.851998]],
]


def test_layer_gives_the_recorded_output_of_torch():
    layer = tfbn.from_torch(STATE, axis=1, momentum=0.3, eps=1e-3)
    assert (layer.momentum, layer.epsilon, layer.unbiased) == (pytest.approx(0.7), 1e-3, True)
    np.testing.assert_allclose(layer(INPUT)[0], OUTPUT, atol=2e-6)
    last = tfbn.from_torch(STATE, momentum=0.3, eps=1e-3)
    np.testing.assert_allclose(last(np.moveaxis(INPUT, 1, -1))[0], np.moveaxis(OUTPUT, 0, -1), atol=2e-6)


def test_training_step_gives_the_recorded_averages_of_torch():
    """From torch's start on, the recorded step."""
    start = {**STATE, "running_mean": np.zeros(3), "running_var": np.ones(3)}
    layer = tfbn.from_torch(start, axis=1, momentum=0.3, eps=1e-3)
    layer(INPUT, training=True)
    np.testing.assert_allclose(layer.moving_mean, STATE["running_mean"], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, STATE["running_var"], rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.3, "eps": 0.1},
        {"momentum": None},
        {"affine": False},
        {"track_running_stats": False},
    ],
    ids=str,
)
def test_layer_matches_an_installed_torch(rng, options):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm1d(4, **options)
    for _ in range(3):
        theirs(torch.tensor(rng.normal(3, 2, [20, 4]).astype("float32")))
    kept = {key: value for key, value in options.items() if key in ("momentum", "eps")}
    if "momentum" in options and options["momentum"] is None:
        kept["values_per_batch"] = 20
    ours = tfbn.from_torch(theirs.state_dict(), ndim=2, **kept)
    for training in (False, True, False):
        x = rng.normal(3, 2, [20, 4]).astype("float32")
        expected = theirs.train(training)(torch.tensor(x)).detach().numpy()
        np.testing.assert_allclose(ours(x, training=training), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("state", "options", "message"),
    [
        ({}, {}, "state_dict of one batch norm layer"),
        ({"bn.weight": [1.0]}, {}, "without its prefix"),
        ({**STATE, "bias": [0.0]}, {}, "arrays of one length"),
        ({"weight": [1.0]}, {}, "both 'weight' and 'bias'"),
        (STATE, {"momentum": None}, "values_per_batch"),
        (STATE, {"eps": -1}, "epsilon"),
        (STATE, {"momentum": 2.0}, "momentum"),
        (STATE, {"axis": 4}, "one of its axes"),
        (STATE, {"ndim": 1}, "`ndim`"),
        (STATE, {"values_per_batch": -5}, "values_per_batch"),
        ({**STATE, "running_var": [1.0, np.nan, 1.0]}, {}, "finite"),
    ],
    ids=str,
)
def test_from_torch_rejects_bad_states(state, options, message):
    with pytest.raises(ValueError, match=message):
        tfbn.from_torch(state, **options)
