"""The classic experiments. Imports no TensorFlow, so that the command lists them at once."""

from tfbn.recipes.recipe import Recipe, Vary

CIFAR_SCALES = tuple(float(f"{10 ** (-4 + 4 * i / 19):.3g}") for i in range(20))
MNIST_SCALES = tuple(float(f"{10 ** (-4 * i / 15):.3g}") for i in range(16))
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
# What both recipes for CIFAR-10 share.
CS231N = dict(
    dataset="cifar10",
    train_size=1000,
    validation_size=1000,
    centered=True,
    batchnorm_options=dict(momentum=0.9, epsilon=1e-5),  # as in the source
    learning_rate=0.001,
    batch_size=50,
)

RECIPES: dict[str, Recipe] = {
    "side-by-side": Recipe(
        """Does a small network learn MNIST better with batch norm?

784-32-32-10, ReLU, Adam at 0.01, batches of 32, ten epochs. `tfbn compare` runs this recipe.

Source: the notebook https://www.cnblogs.com/yangjing000/p/9873228.html, whose single run had a test
accuracy of .9713 with batch norm and .9449 without.

Expected: yes: a test accuracy of .9721 with batch norm and .9539 without, .0182 more (95 % interval .0158
to .0207), better with 6 of 6 seeds. The source's single run had a difference of .0264.

Cost: 28 s for six seeds, on two cores.
""",
        quick=dict(seeds=1, epochs=2),
        models=True,
    ),
    "depth": Recipe(
        """Does batch norm help a deeper network of sigmoids more?

3, 5 and 7 hidden layers of 1,000 sigmoids, SGD with momentum. Batch norm is on the input of every layer,
with cumulative statistics and Bessel's correction. 80 % of all 70,000 images are for training, 10 % each
for validation and test. With one label an image, micro-averaged F1 equals the accuracy.

Source: a notebook in Theano, a single run without the plain networks: micro-F1 after epochs 1, 10 and 100
of .935/.976/.981, .951/.974/.982 and .938/.976/.981.

Expected: with batch norm, a test F1 of .9744, .9743 and .9753 after 10 epochs (seed 0), and .9717, .9739
and .9741 on the validation split. The plain networks get worse with depth: .906 with 3 hidden layers, and
chance with 5 and 7.

Cost: 9 minutes for one seed, on two cores.
""",
        settings=dict(
            pooled=True,
            hidden=(1000,),
            activation="sigmoid",
            norm_position="input",
            batchnorm_options=dict(momentum=None, unbiased=True, epsilon=1e-5),
            optimizer="momentum",
            batch_size=100,
            seeds=1,
        ),
        vary=Vary("depth", (3, 5, 7), "Hidden layers", log=False),
        quick=dict(train_size=2000, epochs=1, seeds=1),
        figures=("by_value", "sweep"),
    ),
    "cifar-depth": Recipe(
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
""",
        settings=CS231N | dict(hidden=(100,) * 5, initializer=0.02),
        quick=dict(seeds=1, epochs=3),
        observe=("histograms",),
        figures=("curves", "histograms"),
    ),
    "cifar-init-scale": Recipe(
        """Does batch norm make a deep network's training independent of the scale of its initial weights?

1,000 images of CIFAR-10, pixels of 0 to 255 minus the mean image. The network is
3072-50-50-50-50-50-50-50-10, ReLU. Adam at 0.001, batches of 50, ten epochs, at 20 standard deviations of
the initial weights from 0.0001 to 1.

Source: a course notebook after Stanford's CS231n, assignment 2.

Expected: as in the source, the network learns at every scale with batch norm, and at few without. The mean
test accuracy over the scales is .243 and .151 (better with 6 of 6 seeds); at a scale of 0.0001 it is .222
and chance. At the best scale of each there is no evidence of a difference: .304 and .295.

Cost: 25 s for one seed, 40 networks; 94 s for six, on two cores.
""",
        settings=CS231N | dict(hidden=(50,) * 7),
        vary=Vary("initializer", CIFAR_SCALES, "Standard deviation of the initial weights"),
        quick=dict(seeds=1, epochs=3, values=CIFAR_SCALES[::4]),
        figures=("sweep",),
    ),
    "mnist-init-scale": Recipe(
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
""",
        settings=dict(
            train_size=1000,
            validation_size=1000,
            batchnorm_options=dict(momentum=0.9, epsilon=1e-6),  # as in the source
            hidden=(100,) * 5,
            optimizer="sgd",
            batch_size=100,
            epochs=20,
        ),
        vary=Vary("initializer", MNIST_SCALES, "Standard deviation of the initial weights"),
        quick=dict(seeds=1, epochs=5, values=MNIST_SCALES[::3]),
        figures=("sweep",),
    ),
    "wave": Recipe(
        """Does batch norm help a small network to fit a curve?

A regression by 1-16-16-1, ReLU, mean squared error, all 100 points in each step, Adam at 0.005, 6,000
steps, moving averages with a momentum of 0.5.

Source: https://github.com/goddoe/ml_lecture, notebook 6, which shows the fit with batch norm only.

Expected: no evidence of a difference over 6 seeds. Both networks fit the points after 6,000 steps, with a
median squared error of .0063 with batch norm and .0075 without. With batch norm the curve, which the moving
averages draw, moves from step to step until the end, as in the source. One run of six ended at .23.

Cost: 14 s for six seeds, on two cores.
""",
        settings=dict(
            dataset="wave",
            hidden=(16, 16),
            batchnorm_options=dict(momentum=0.5),
            learning_rate=0.005,
            loss="mse",
            batch_size=100,
            epochs=20,
            steps_per_epoch=300,
        ),
        quick=dict(seeds=1, epochs=5),
        observe=("outputs",),
        figures=("fitted", "curves"),
    ),
    "ioffe-figure-1": Recipe(
        """Does batch norm keep the inputs of a layer's sigmoids where they were while the network trains?

Binary images of MNIST, three hidden layers of 100 sigmoids, batches of 60, 50,000 steps. The figures show
the accuracy over steps, and the 15th, 50th and 85th percentile of the inputs of the last hidden layer. The
paper gives neither learning rate nor initial scale; here SGD at 0.1 and a standard deviation of 0.05.

Source: Ioffe and Szegedy 2015, arXiv:1502.03167, section 4.1 and figure 1.

Expected: as in the paper, batch norm learns far sooner: a validation accuracy of .96 after 11,000 steps,
not 35,000, and a test accuracy of .9758, not .9647 (better with 6 of 6 seeds). The percentiles of a
last-layer unit's input are on average .059 of their final width from where they end, and .098 without
batch norm. From one record to the next they vary as much as without.

Cost: 35 s for one seed, 175 s for six, on two cores.
""",
        settings=dict(
            binary=True,
            hidden=(100,) * 3,
            activation="sigmoid",
            initializer=0.05,
            optimizer="sgd",
            learning_rate=0.1,
            batch_size=60,
            epochs=50,
            steps_per_epoch=1000,
        ),
        quick=dict(seeds=1, epochs=10, steps_per_epoch=200),
        observe=("percentiles", "histograms"),
        figures=("curves", "percentiles", "histograms"),
    ),
    "convnet": Recipe(
        """Does batch norm, with statistics for each channel, help a small convolutional network?

Two blocks of a 3x3 convolution (16 and 32 channels), batch norm, ReLU and 2x2 max pooling, then 64 ReLUs.
Adam at 0.001, batches of 64, on 10,000 images of MNIST or, with `--dataset cifar10`, of CIFAR-10.

Source: the remark on convolutions in the notebook of `mnist-init-scale`; Ioffe and Szegedy 2015, section
3.2.

Expected: a little on MNIST: a test accuracy of .9792 and .9744 without, .0048 more (95 % interval .0029 to
.0065), better with 6 of 6 seeds. On CIFAR-10 there is no evidence after five epochs: .5373 and .5228,
better with 5 of 6 seeds.

Cost: 79 s for six seeds, on two cores.
""",
        settings=dict(
            train_size=10_000,
            hidden=(64,),
            conv_filters=(16, 32),
            learning_rate=0.001,
            batch_size=64,
            epochs=5,
        ),
        quick=dict(train_size=2000, seeds=1, epochs=2, batchnorm_options=dict(debias=True)),
        models=True,
    ),
    "learning-rate": Recipe(
        """Does batch norm help, or does it only allow a larger learning rate?

The networks of `side-by-side` with SGD at learning rates from 0.001 to 30, on 10,000 images, five epochs.

Source: the question of Bjorck et al. 2018, arXiv:1806.02375, section 3.

Expected: both. SGD trains at rates ten times as large with batch norm (.94 at 1, where the plain network
has .25). At the best rate of each, chosen by validation, batch norm is still better: a test accuracy of
.9436 and .9322 (better with 6 of 6 seeds). At 10 and above both stay at chance, and no run diverges.

Cost: 31 s for six seeds, 120 networks, on two cores.
""",
        settings=dict(train_size=10_000, optimizer="sgd", epochs=5),
        vary=Vary("learning_rate", RATES, "Learning rate"),
        quick=dict(
            train_size=2000, seeds=1, epochs=2, values=RATES[::2], batchnorm_options=dict(debias=True)
        ),
        figures=("sweep",),
    ),
}


def find(name: str) -> Recipe:
    """Return the recipe called `name`; raise ValueError if there is none.

    >>> find("depth").vary.values
    (3, 5, 7)
    """
    name = str(name).replace("_", "-")
    if name not in RECIPES:
        raise ValueError(f"Unknown recipe {name!r}. Known: {', '.join(RECIPES)}.")
    return RECIPES[name]
