"""Half precision trains as float32 does; Keras scales the loss where float16 needs it."""

import keras
import numpy as np
import pytest

import tfbn


def net():
    return tfbn.Model(8, 3, (6,), use_batchnorm=False)


def scaled(optimizer=None, **options):
    return keras.optimizers.LossScaleOptimizer(optimizer or keras.optimizers.Adam(0.01), **options)


@pytest.fixture(scope="module")
def exact(mnist):
    """A network that learnt MNIST in float32, and its test accuracy."""
    return learn(mnist, "float32")


def learn(mnist, precision):
    result = tfbn.compare(
        {"batchnorm": lambda: tfbn.Model(784, 10, (32, 32))},
        mnist,
        epochs=round(110_000 / len(mnist.train.y)),
        batch_size=100,
        learning_rate=0.001,
        seeds=1,
        precision=precision,
    )
    return result.models["batchnorm"], result.test[0]["accuracy"]


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_learns_mnist_as_float32_does(mnist, exact, precision):
    model, accuracy = learn(mnist, precision)
    assert accuracy == pytest.approx(exact[1], abs=0.01)
    assert accuracy > 0.89
    assert model.dtype_policy.name == precision
    scales = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scales == (precision == "mixed_float16")
    assert not isinstance(exact[0].optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.parametrize(("optimizer", "moves"), [("sgd", True), (scaled, False)])
def test_loss_scaling_rescues_gradients_below_float16(blobs, optimizer, moves):
    """The scores' gradients are below 1e-8 / 20. The control has a scale of 1, which changes nothing."""
    assert np.float16(1e-8 / 20) == 0

    def loss(y, scores):
        return 1e-8 * keras.losses.sparse_categorical_crossentropy(y, scores, from_logits=True)

    if optimizer is scaled:
        optimizer = scaled(keras.optimizers.SGD(), initial_scale=1.0)
    result = tfbn.compare(
        {"a": net},
        blobs,
        epochs=2,
        batch_size=20,
        seeds=1,
        optimizer=optimizer,
        learning_rate=1e7,
        loss=loss,
        precision="mixed_float16",
    )
    keras.utils.set_random_seed(0)
    changed = result.models["a"].get_weights()[0] != net().get_weights()[0]
    assert changed.mean() > 0.5 if moves else not changed.any()


def test_loss_scale_grows_and_shrinks(blobs):
    """10 steps of 20 examples and one of 3 an epoch."""
    grows = tfbn.Solver(
        net(), scaled(initial_scale=2.0**10, dynamic_growth_steps=4), precision="mixed_float16"
    )
    grows.fit(blobs, epochs=1, batch_size=20)
    optimizer = grows.model.optimizer
    assert float(optimizer.dynamic_scale) == 2.0**12, "twice 4 steps, and 3"
    assert int(optimizer.step_counter) == 3

    shrinks = tfbn.Solver(net(), scaled(initial_scale=2.0**30), precision="mixed_float16")
    shrinks.fit(blobs, epochs=2, batch_size=20)
    optimizer = shrinks.model.optimizer
    skipped = 22 - int(optimizer.iterations)
    assert 0 < skipped < 22
    assert float(optimizer.dynamic_scale) == 2.0 ** (30 - skipped)


def test_restart_resets_the_loss_scale(blobs):
    def solver():
        return tfbn.Solver(net(), scaled(initial_scale=2.0**30), precision="mixed_float16", jit=False)

    keras.utils.set_random_seed(0)
    used, start = solver(), net()
    used.fit(blobs, epochs=2, batch_size=20)
    used.restart(start)
    optimizer = used.model.optimizer
    assert float(optimizer.dynamic_scale) == 2.0**30
    assert int(optimizer.step_counter) == int(optimizer.iterations) == 0
    fresh = solver()
    fresh.model.set_weights(start.get_weights())
    losses = [each.fit(blobs, epochs=2, batch_size=20)["loss"] for each in (used, fresh)]
    assert losses[0] == losses[1]


def test_each_seed_of_a_comparison_starts_with_the_first_scale(blobs):
    def records(seeds):
        """The first steps of each seed are skipped, until the scale has come down."""
        result = tfbn.compare(
            {"a": net},
            blobs,
            epochs=2,
            batch_size=20,
            seeds=seeds,
            optimizer=scaled(initial_scale=2.0**30),
            precision="mixed_float16",
        )
        assert float(result.models["a"].optimizer.dynamic_scale) < 2.0**20
        return [{**record, "seconds": 0} for record in result.records if record["seed"] == 1]

    assert records([0, 1]) == records([1])


def test_arms_have_their_own_learning_rates_under_scaling(blobs):
    arms = {rate: tfbn.Arm(net, "net", rate, float(rate), program="net") for rate in ("0.1", "0.01")}
    options = dict(epochs=1, batch_size=20, seeds=1, precision="mixed_float16")
    scaled_adam = tfbn.compare(arms, blobs, optimizer=scaled(), **options)
    adam = tfbn.compare(arms, blobs, optimizer="adam", **options)
    assert scaled_adam.test == adam.test
    schedule = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 10))
    with pytest.raises(ValueError, match="a number in `compare`"):
        tfbn.compare(arms, blobs, optimizer=scaled(schedule), **options)


def test_saved_model_trains_further_with_its_scale(blobs, tmp_path):
    solver = tfbn.Solver(net(), scaled(initial_scale=2.0**30), precision="mixed_float16")
    solver.fit(blobs, epochs=2, batch_size=20)
    solver.model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert float(again.optimizer.dynamic_scale) == float(solver.model.optimizer.dynamic_scale) < 2.0**20
    assert again.dtype_policy.name == "mixed_float16"
    again.fit(*blobs.train, verbose=0)
