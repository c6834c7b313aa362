"""From which initial weights does a deep network learn at all?

1,000 images of MNIST: 784-100-100-100-100-100-10, ReLU, SGD at 0.01, batches of 100, 20 epochs, at 16
standard deviations of the initial weights from 1 to 0.0001. `--values he_normal,glorot_normal` uses He's
and Xavier's instead. `--dropout`, `--weight-decay` and `--optimizer
sgd|momentum|nesterov|adagrad|rmsprop|adam` are the options of the source.

Source: a notebook after K. Saitoh, "Deep Learning from Scratch", section 6.3.

Expected: as in the source, the network learns at all scales with batch norm, and at two or three without.
The mean test accuracy over the scales is .698 and .193 (better with 6 of 6 seeds), at the best scale .893
and .741. At the two largest scales the plain network diverges, 12 of 96 runs. The source's epsilon
matters: with Keras' 0.001 the network with batch norm learns nothing below a scale of 0.02.

Cost: 20 s for one seed, 32 networks; 71 s for six, on two cores.
"""

from tfbn.recipes.recipe import Recipe, Vary

SCALES = tuple(float(f"{10 ** (-4 * i / 15):.3g}") for i in range(16))

RECIPE = Recipe(
    __doc__,
    settings=dict(
        train_size=1000,
        validation_size=1000,
        batchnorm_options=dict(momentum=0.9, epsilon=1e-6),  # as in the source
        hidden=(100,) * 5,
        optimizer="sgd",
        learning_rate=0.01,
        batch_size=100,
        epochs=20,
    ),
    vary=Vary("initializer", SCALES, "Standard deviation of the initial weights"),
    quick=dict(seeds=1, epochs=5, values=SCALES[::3]),
    figures=("sweep",),
)
