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

# Where a run takes place, which makes it no other experiment.
PLACES = ("data_dir", "fallback", "device")


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
        if self.vary and self.vary.setting in given:
            raise ValueError(
                f"{self.vary.setting!r} is what this recipe varies. Give `values` (--values) in its place."
            )
        if len(set(given.get("values") or ())) < len(given.get("values") or ()):
            raise ValueError(f"`values` must not name a value more than once. Received: {given['values']}.")
        found = {**DEFAULTS, **self.settings, **(self.quick if quick else {}), **given}
        return {name: value for name, value in found.items() if not self.vary or name != self.vary.setting}

    def changed(self, settings):
        """How `settings` differ from the recipe's, in words.

        >>> Recipe("?", dict(epochs=5)).changed({**DEFAULTS, "epochs": 2, "device": "cpu"})
        'epochs to 2 from 5'
        """
        own = self.resolve()
        own["values"] = self.vary and self.vary.values
        return ", ".join(
            f"{name} to {_shown(value)} from {_shown(own[name])}"
            for name, value in settings.items()
            if value is not None and value != own[name] and name not in PLACES
        )


def _shown(value):
    if value is None:
        return "the default"
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)
