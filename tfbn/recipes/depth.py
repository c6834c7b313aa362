"""Does batch norm help more, the deeper a network of sigmoids is?

3, 5 and 7 hidden layers of 1,000 sigmoids, batch norm on the input of every layer with cumulative
statistics and Bessel's correction, SGD with momentum, 80/20 of all 70,000 images; the 20 % are halved into
validation and test. With one label an image micro-averaged F1 is the accuracy, so the accuracy stands for
both.

Source: a notebook in Theano, a single run without the plain networks: micro-F1 after epochs 1, 10 and 100
of .935/.976/.981, .951/.974/.982 and .938/.976/.981.

Expected: the networks with batch norm reach a test F1 of .9744, .9743 and .9753 after 10 epochs (seed 0),
.9717, .9739 and .9741 on the validation split. The plain ones fall behind with depth: .906 with 3 hidden
layers, and chance with 5 and 7.

Cost: 9 minutes for one seed, on two cores.
"""

from tfbn.recipes.recipe import Recipe, Vary

RECIPE = Recipe(
    __doc__,
    settings=dict(
        pooled=True,
        hidden=(1000,),
        activation="sigmoid",
        norm_position="input",
        batchnorm_options=dict(momentum=None, unbiased=True, epsilon=1e-5),
        optimizer="momentum",
        learning_rate=0.01,
        batch_size=100,
        epochs=10,
        seeds=1,
    ),
    vary=Vary("depth", (3, 5, 7), "Hidden layers", log=False),
    quick=dict(train_size=2000, epochs=1, seeds=1),
    figures=("by_value", "sweep"),
)
