"""`Recipe`: an experiment as data. Standard library only, so that the command lists recipes at once."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field

# What a recipe may set, and what holds where it does not.
DEFAULTS = dict(
    dataset="mnist",
    data_dir=None,
    fallback=True,  # whether the sample may stand in for MNIST
    train_size=None,
    validation_size=None,
    pooled=False,
    binary=False,
    centered=False,
    hidden=(32, 32),
    depth=None,  # so many hidden layers of the first width
    conv_filters=(),
    activation="relu",
    initializer="glorot_uniform",  # or the standard deviation of a normal distribution
    norm_position="before_activation",
    batchnorm_options=None,
    dropout=0.0,
    weight_decay=0.0,
    optimizer="adam",
    learning_rate=0.01,
    loss=None,
    batch_size=32,
    epochs=10,
    steps_per_epoch=None,
    seeds=6,
    seed=0,
    values=None,  # in place of those that the recipe varies
    reach=None,
    device="auto",
    precision="float32",
)


@dataclass(frozen=True)
class Vary:
    """A setting that is varied, each value with and without batch norm.

    Args:
        setting: str, one of DEFAULTS.
        values: tuple.
        label: str, for an axis.
        log: bool, whether the axis is logarithmic.
    """

    setting: str
    values: tuple
    label: str
    log: bool = True


@dataclass(frozen=True)
class Recipe:
    """One experiment.

    Args:
        text: str: the question, and paragraphs that begin with "Source:", "Expected:" and "Cost:".
        settings: dict, what differs from DEFAULTS.
        vary: `Vary`. Default None.
        quick: dict, the settings of a quick look.
        observe: names of `tfbn.observers`. Default: none.
        figures: names of `Comparison.FIGURES`.
        models: bool, whether the trained networks are saved. Default False.

    >>> recipe = Recipe("Does it help?\\n\\nSource: a paper,\\npage 1.")
    >>> recipe.question, recipe.source
    ('Does it help?', 'a paper, page 1.')
    """

    text: str
    settings: dict = field(default_factory=dict)
    vary: Vary | None = None
    quick: dict = field(default_factory=dict)
    observe: tuple = ()
    figures: tuple = ("curves",)
    models: bool = False

    @property
    def question(self):
        return " ".join(textwrap.dedent(self.text).strip().split("\n\n")[0].split())

    @property
    def source(self):
        return self._paragraph("Source:")

    @property
    def expected(self):
        return self._paragraph("Expected:")

    @property
    def cost(self):
        return self._paragraph("Cost:")

    def _paragraph(self, begins):
        for paragraph in self.text.split("\n\n"):
            if paragraph.strip().startswith(begins):
                return " ".join(paragraph.split()).removeprefix(begins).strip()
        return ""

    def resolve(self, quick=False, **given):
        """All settings: those given, else of the quick look, else of the recipe, else of DEFAULTS.

        Raises:
            TypeError: there is no such setting.
        """
        unknown = sorted(given.keys() - DEFAULTS.keys())
        if unknown:
            raise TypeError(f"Unknown setting {', '.join(unknown)}. Known: {', '.join(sorted(DEFAULTS))}.")
        if given.get("values") is not None and self.vary is None:
            raise ValueError("`values` can only be given to a recipe that varies something.")
        if len(set(given.get("values") or ())) < len(given.get("values") or ()):
            raise ValueError(f"`values` must not name a value more than once. Received: {given['values']}.")
        return {**DEFAULTS, **self.settings, **(self.quick if quick else {}), **given}
