"""The figures of a comparison: what each draws, and its files."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tfbn import plots
from tfbn.foundation.arguments import choice

if TYPE_CHECKING:
    from tfbn.comparison.results import Comparison

SPREAD = "the mean of the seeds, a band from the lowest to the highest"


class Drawing(NamedTuple):
    """A kind of figure: the function that draws it, its caption, and what has to be observed for it."""

    draw: Callable[..., Any]
    caption: str
    observed: str | None = None


FIGURES = {
    "curves": Drawing(plots.all_curves, f"Training and validation over the training: {SPREAD}"),
    "sweep": Drawing(
        plots.sweeps, f"Results of the runs over what is varied: {SPREAD}, crosses for runs that diverged"
    ),
    "by_value": Drawing(plots.by_value, f"Validation over the training, a panel for each value: {SPREAD}"),
    "percentiles": Drawing(
        plots.inside,
        "15th, 50th and 85th percentile of the inputs of one unit of the last hidden layer; below, the "
        "drift of all its units",
        "percentiles",
    ),
    "histograms": Drawing(
        plots.histograms, "Inputs of each hidden activation, before and after training", "histograms"
    ),
    "fitted": Drawing(plots.fits, "The fitted curve over the training, from light to dark", "outputs"),
}


def draw_figure(comparison: "Comparison", name: str, pyplot: bool = False) -> plots.Figure:
    """Return the figure `name` of FIGURES, as `Comparison.figure` documents it."""
    metadata = comparison.metadata
    drawing = FIGURES[choice("name", name, FIGURES)]
    observed = drawing.observed
    if observed and not any(observed in item for item in metadata.observations):
        raise ValueError(f"The figure {name!r} needs observe=[{observed!r}] in the comparison.")
    curve = metadata.dataset.get("curve")
    data = {
        "records": comparison.records,
        "observations": metadata.observations,
        "diverged": metadata.diverged,
        "arms": metadata.arms,
        "vary": metadata.vary,
        "steps_per_epoch": metadata.steps_per_epoch,
        "x": curve and curve["validation_x"],
        "points": curve and (curve["x"], curve["y"]),
    }
    # What was observed is drawn of one seed, which the panels name.
    title = f"{metadata.title}\n{metadata.source}" if observed else comparison.title()
    options = {name: data[name] for name in inspect.signature(drawing.draw).parameters if name in data}
    return plots.figure(title, drawing.draw, pyplot=pyplot, **options)


def save_figures(comparison: "Comparison", folder: str | os.PathLike) -> list[Path]:
    """Write the figures that a report shows into `folder`, and return their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = comparison.metadata
    paths = []
    for name in metadata.figures:
        if name == "curves":
            title, steps = comparison.title(), metadata.steps_per_epoch
            paths.append(plots.save_curves(folder, comparison.records, title, steps)[0])
        else:
            paths.append(folder / f"{name}.png")
            draw_figure(comparison, name).savefig(paths[-1], dpi=120)
    return paths
