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
        {"bias": False},
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
        ({"running_mean": [1.0]}, {}, "both 'running_mean' and 'running_var'"),
        (STATE, {"momentum": None}, "values_per_batch"),
        (STATE, {"eps": -1}, "epsilon"),
        (STATE, {"eps": 0}, r"`eps` must be above 0.*Received: eps=0\. Use eps=1e-12"),
        (STATE, {"momentum": 2.0}, "momentum"),
        (STATE, {"axis": 4}, "one of its axes"),
        (STATE, {"ndim": 1}, "`ndim`"),
        (STATE, {"values_per_batch": -5}, "values_per_batch"),
        ({**STATE, "running_var": [1.0, np.nan, 1.0]}, {}, "'running_var'.* finite"),
        ({**STATE, "running_mean": [0.0, -1e39, 0.0]}, {}, r"'running_mean'.* finite.*1e\+39"),
        ({**STATE, "running_var": [1.0, -1e-9, 1.0]}, {}, "'running_var'.* 0 or more.*-1e-09"),
        ({**STATE, "num_batches_tracked": -1}, {}, "'num_batches_tracked'.*Received: -1.0"),
        ({**STATE, "num_batches_tracked": 1.5}, {}, "'num_batches_tracked'.*Received: 1.5"),
        ({**STATE, "num_batches_tracked": [1, 2]}, {}, "'num_batches_tracked'"),
        ({**STATE, "weight": "abc"}, {}, "'weight' of `state` is not an array of numbers"),
        ({"1.weight": [1.0], "1.bias": [0.0]}, {}, "no batch norm layer.*prefixes: 1,"),
        ({f"1.{key}": value for key, value in STATE.items()}, {"name": "norm"}, "`name` is for"),
        ({f"1.{key}": [-1.0] for key in list(STATE)[:4]}, {}, "Layer '1': 'running_var'"),
    ],
    ids=str,
)
def test_from_torch_rejects_bad_states(state, options, message):
    with pytest.raises(ValueError, match=message) as error:
        tfbn.from_torch(state, **options)
    assert "\n" not in str(error.value)


def test_from_torch_rejects_a_state_that_is_not_a_dict():
    with pytest.raises(TypeError, match=r"Received: list. Pass `layer.state_dict\(\)`"):
        tfbn.from_torch([STATE])


@pytest.mark.parametrize("missing", ["weight", "bias"])
def test_layer_without_gamma_or_beta_gives_the_recorded_output_of_torch(missing):
    """The default of the missing one, by whose other value the recorded output is corrected."""
    layer = tfbn.from_torch({**STATE, missing: None}, axis=1, momentum=0.3, eps=1e-3)
    assert (layer.scale, layer.center) == (missing != "weight", missing != "bias")
    weight, bias = (np.reshape(STATE[key], [3, 1, 1]) for key in ("weight", "bias"))
    plain = np.array(OUTPUT) - bias
    expected = plain if missing == "bias" else plain / weight + bias
    np.testing.assert_allclose(layer(INPUT)[0], expected, atol=1e-5)


class Tensor:
    """A tensor as PyTorch's: NumPy reads it only in float64, without gradients, on the CPU."""

    def __init__(self, value, steps=()):
        self.value, self.steps = value, steps

    def __array__(self, *_, **__):
        raise TypeError("Can't convert tensor")

    def _after(self, step):
        return Tensor(self.value, (*self.steps, step))

    def detach(self):
        return self._after("detach")

    def cpu(self):
        return self._after("cpu")

    def double(self):
        return self._after("double")

    def numpy(self):
        assert self.steps == ("detach", "cpu", "double")
        return np.asarray(self.value, "float64")


def test_tensors_on_other_devices_and_with_gradients_are_read():
    layer = tfbn.from_torch({key: Tensor(value) for key, value in STATE.items()}, axis=1, eps=1e-3)
    np.testing.assert_allclose(layer(INPUT)[0], OUTPUT, atol=2e-6)


def test_state_of_a_model_gives_its_layers_by_prefix():
    norm = {key: np.array(value, "float64") for key, value in STATE.items()}
    parts = {
        "module.features.0": {"weight": np.ones([3, 1, 2, 2]), "bias": np.zeros(3)},
        "module.features.1": norm,
        "module.features.2": {"weight": np.ones(3), "bias": np.zeros(3)},  # a LayerNorm, say
        "module.scaler": {"running_mean": np.zeros(3), "running_var": np.ones(3), "limit": 5.0},
        "module.bn": {key: value for key, value in norm.items() if key != "bias"},
    }
    state = {f"{prefix}.{key}": value for prefix, part in parts.items() for key, value in part.items()}
    layers = tfbn.from_torch(state | {"token": np.zeros([1, 1, 8])}, axis=1, eps=1e-3)
    assert list(layers) == ["module.features.1", "module.bn"]
    assert [layer.name for layer in layers.values()] == list(layers)
    np.testing.assert_allclose(layers["module.features.1"](INPUT)[0], OUTPUT, atol=2e-6)
    assert not layers["module.bn"].center


def test_layer_matches_an_installed_torch_in_each_precision_and_in_a_model(rng):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4, eps=1e-3))
    x = torch.tensor(rng.normal(3, 2, [20, 3, 8, 8]).astype("float32"))
    net(x)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        net.to(dtype).eval()
        (layer,) = tfbn.from_torch(net.state_dict(keep_vars=True), axis=1, eps=1e-3).values()
        inputs = net[0](x.to(dtype)).detach().double()
        expected = net.double()[1](inputs).detach().numpy()
        np.testing.assert_allclose(layer(inputs.numpy()), expected, atol=1e-5)
