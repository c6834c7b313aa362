"""The classic experiments, a file each. Imports no TensorFlow, so that the command lists them at once."""

from tfbn.recipes import (
    cifar_depth,
    cifar_init_scale,
    convnet,
    depth,
    ioffe_figure_1,
    learning_rate,
    mnist_init_scale,
    side_by_side,
    wave,
)
from tfbn.recipes.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    "side-by-side": side_by_side.RECIPE,
    "depth": depth.RECIPE,
    "cifar-depth": cifar_depth.RECIPE,
    "cifar-init-scale": cifar_init_scale.RECIPE,
    "mnist-init-scale": mnist_init_scale.RECIPE,
    "wave": wave.RECIPE,
    "ioffe-figure-1": ioffe_figure_1.RECIPE,
    "convnet": convnet.RECIPE,
    "learning-rate": learning_rate.RECIPE,
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
