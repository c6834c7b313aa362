"""`Recipe`: an experiment as data. It uses the standard library only."""

from dataclasses import dataclass, field
from typing import Any

# What a recipe can set, and the defaults.
DEFAULTS: dict[str, Any] = dict(
    dataset="mnist",
    data_dir=None,
    fallback=True,  # whether the sample may replace MNIST
    train_size=None,
    validation_size=None,
    pooled=False,
    binary=False,
    centered=False,
    hidden=(32, 32),
    depth=None,  # the number of hidden layers, of the first width
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
    values=None,  # replace those of the recipe's varied setting
    reach=None,
    device="auto",
    precision="float32",
)

# Settings of the place of a run, which do not change the experiment.
PLACE_SETTINGS = ("data_dir", "fallback", "device")


@dataclass(frozen=True)
class Vary:
    """A setting that is varied, each value with and without batch norm."""

    setting: str  # one of DEFAULTS
    values: tuple
    label: str  # of the figures' axis
    log: bool = True  # whether the axis is logarithmic


@dataclass(frozen=True)
class Recipe:
    """One experiment.

    Args:
        text: the question, and paragraphs that begin with "Source:", "Expected:" and "Cost:".
        settings: what differs from DEFAULTS.
        vary: the setting that is varied. Default None.
        quick: the settings of a quick look.
        observe: names of `tfbn.comparison.observers`. Default: none.
        figures: names of `Comparison.figure`.
        models: whether the trained networks are saved. Default False.

    >>> recipe = Recipe("Does it help?\\n\\nSource: a paper,\\npage 1.")
    >>> recipe.question, recipe.source
    ('Does it help?', 'a paper, page 1.')
    """

    text: str
    settings: dict[str, Any] = field(default_factory=dict)
    vary: Vary | None = None
    quick: dict[str, Any] = field(default_factory=dict)
    observe: tuple[str, ...] = ()
    figures: tuple[str, ...] = ("curves",)
    models: bool = False

    @property
    def question(self) -> str:
        return self._paragraph("")

    @property
    def source(self) -> str:
        return self._paragraph("Source:")

    @property
    def expected(self) -> str:
        return self._paragraph("Expected:")

    @property
    def cost(self) -> str:
        return self._paragraph("Cost:")

    def _paragraph(self, start: str) -> str:
        paragraphs = (" ".join(paragraph.split()) for paragraph in self.text.strip().split("\n\n"))
        return next((text.removeprefix(start).strip() for text in paragraphs if text.startswith(start)), "")

    def resolve(self, quick: bool = False, **overrides: Any) -> dict[str, Any]:
        """Return all settings: the overrides, else the quick look's, the recipe's, or DEFAULTS.

        Raises:
            TypeError: a setting does not exist.
            ValueError: `values` repeats one, or does not suit the recipe; the varied setting is overridden.
        """
        unknown = sorted(overrides.keys() - DEFAULTS.keys())
        if unknown:
            raise TypeError(f"Unknown setting {', '.join(unknown)}. Known: {', '.join(sorted(DEFAULTS))}.")
        values = overrides.get("values")
        if values is not None and self.vary is None:
            raise ValueError("`values` can only be given to a recipe that varies a setting.")
        if self.vary and self.vary.setting in overrides:
            raise ValueError(
                f"{self.vary.setting!r} is what this recipe varies. Give `values` (--values) in its place."
            )
        if len(set(values or ())) < len(values or ()):
            raise ValueError(f"`values` must not name a value more than once. Received: {values}.")
        settings = {**DEFAULTS, **self.settings, **(self.quick if quick else {}), **overrides}
        if self.vary:
            del settings[self.vary.setting]
        return settings

    def changed(self, settings: dict[str, Any]) -> str:
        """Return in words how `settings` differ from the recipe's.

        >>> Recipe("?", dict(epochs=5)).changed({**DEFAULTS, "epochs": 2, "device": "cpu"})
        'epochs to 2 from 5'
        """
        own = {**self.resolve(), "values": self.vary and self.vary.values}
        return ", ".join(
            f"{name} to {_in_words(value)} from {_in_words(own[name])}"
            for name, value in settings.items()
            if value is not None and value != own[name] and name not in PLACE_SETTINGS
        )


def _in_words(value: Any) -> str:
    if value is None:
        return "the default"
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)
