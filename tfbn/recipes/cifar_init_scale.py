"""Does batch norm make a deep network's training independent of the scale of its initial weights?

1,000 images of CIFAR-10, pixels of 0 to 255 minus the mean image. The network is
3072-50-50-50-50-50-50-50-10, ReLU. Adam at 0.001, batches of 50, ten epochs, at 20 standard deviations of
the initial weights from 0.0001 to 1.

Source: a course notebook after Stanford's CS231n, assignment 2.

Expected: as in the source, the network learns at every scale with batch norm, and at few without. The mean
test accuracy over the scales is .243 and .151 (better with 6 of 6 seeds); at a scale of 0.0001 it is .222
and chance. At the best scale of each there is no evidence of a difference: .304 and .295.

Cost: 25 s for one seed, 40 networks; 94 s for six, on two cores.
"""

from tfbn.recipes.recipe import Recipe, Vary

SCALES = tuple(float(f"{10 ** (-4 + 4 * i / 19):.3g}") for i in range(20))

RECIPE = Recipe(
    __doc__,
    settings=dict(
        dataset="cifar10",
        train_size=1000,
        validation_size=1000,
        centered=True,
        batchnorm_options=dict(momentum=0.9, epsilon=1e-5),  # as in the source
        hidden=(50,) * 7,
        learning_rate=0.001,
        batch_size=50,
        epochs=10,
    ),
    vary=Vary("initializer", SCALES, "Standard deviation of the initial weights"),
    quick=dict(seeds=1, epochs=3, values=SCALES[::4]),
    figures=("sweep",),
)
