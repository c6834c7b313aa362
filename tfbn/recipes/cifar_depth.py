"""Does batch norm help a network of five hidden layers on very few images?

1,000 images of CIFAR-10 to train on and 1,000 to validate, pixels of 0 to 255 minus the mean image. The
network is 3072-100-100-100-100-100-10, ReLU, with initial weights of a standard deviation of 0.02. Adam at
0.001, batches of 50, ten epochs.

Source: a course notebook after Stanford's CS231n, assignment 2, whose own training crashed. A published
solution has training/validation accuracies of .786/.309 with batch norm and .726/.335 without.

Expected: batch norm is better: a test accuracy of .321 and .300 without, .020 more (95 % interval .015 to
.025), better with 6 of 6 seeds. The best epoch's validation accuracy is .334 and .298. The published
solution, a single run, had a lower validation accuracy with batch norm.

Cost: 23 s for six seeds, on two cores.
"""

from tfbn.recipes.recipe import Recipe

RECIPE = Recipe(
    __doc__,
    settings=dict(
        dataset="cifar10",
        train_size=1000,
        validation_size=1000,
        centered=True,
        batchnorm_options=dict(momentum=0.9, epsilon=1e-5),  # as in the source
        hidden=(100,) * 5,
        initializer=0.02,
        learning_rate=0.001,
        batch_size=50,
        epochs=10,
    ),
    quick=dict(seeds=1, epochs=3),
    observe=("histograms",),
    figures=("curves", "histograms"),
)
