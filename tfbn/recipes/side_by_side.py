"""Does a small network learn MNIST better with batch norm?

784-32-32-10, ReLU, Adam at 0.01, batches of 32, ten epochs. `tfbn compare` runs this recipe.

Source: the notebook https://www.cnblogs.com/yangjing000/p/9873228.html, whose single run had a test
accuracy of .9713 with batch norm and .9449 without.

Expected: yes: a test accuracy of .9721 with batch norm and .9539 without, .0182 more (95 % interval .0158
to .0207), better with 6 of 6 seeds. The source's single run had a difference of .0264.

Cost: 28 s for six seeds, on two cores.
"""

from tfbn.recipes.recipe import Recipe

RECIPE = Recipe(__doc__, quick=dict(seeds=1, epochs=2), models=True)
