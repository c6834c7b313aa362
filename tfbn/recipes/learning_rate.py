"""Does batch norm help, or does it only allow a larger learning rate?

The networks of `side-by-side` with SGD at learning rates from 0.001 to 30, on 10,000 images, five epochs.

Source: the question of Bjorck et al. 2018, arXiv:1806.02375, section 3.

Expected: both. SGD trains at rates ten times as large with batch norm (.94 at 1, where the plain network
has .25). At the best rate of each, chosen by validation, batch norm is still better: a test accuracy of
.9436 and .9322 (better with 6 of 6 seeds). At 10 and above both stay at chance, and no run diverges.

Cost: 31 s for six seeds, 120 networks, on two cores.
"""

from tfbn.recipes.recipe import Recipe, Vary

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)

RECIPE = Recipe(
    __doc__,
    settings=dict(train_size=10_000, optimizer="sgd", epochs=5),
    vary=Vary("learning_rate", RATES, "Learning rate"),
    quick=dict(train_size=2000, seeds=1, epochs=2, values=RATES[::2], batchnorm_options=dict(debias=True)),
    figures=("sweep",),
)
