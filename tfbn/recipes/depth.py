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
