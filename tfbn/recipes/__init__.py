"""The classic experiments, a file each."""

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

MODULES = (
    side_by_side,
    depth,
    cifar_depth,
    cifar_init_scale,
    mnist_init_scale,
    wave,
    ioffe_figure_1,
    convnet,
    learning_rate,
)
RECIPES = {
    module.__name__.removeprefix(f"{__name__}.").replace("_", "-"): module.RECIPE for module in MODULES
}


def find(name):
    """The recipe called `name`.

    Raises:
        ValueError: there is none.

    >>> find("depth").vary.values
    (3, 5, 7)
    """
    name = str(name).replace("_", "-")
    if name not in RECIPES:
        raise ValueError(f"Unknown recipe {name!r}. Known: {', '.join(RECIPES)}.")
    return RECIPES[name]
