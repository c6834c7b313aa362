"""The figures of a comparison: what each draws, and its files."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tfbn import plots
from tfbn.comparison.storage import Metadata
from tfbn.foundation.arguments import choice

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


def draw_figure(
    name: str, records: list[dict], metadata: Metadata, title: str, pyplot: bool = False
) -> plots.Figure:
    """Return the figure `name` of FIGURES, as `Comparison.figure` documents it."""
    drawing = FIGURES[choice("name", name, FIGURES)]
    observed, dataset = drawing.observed, metadata.dataset
    if observed:
        if not any(observed in item for item in metadata.observations):
            raise ValueError(f"The figure {name!r} needs observe=[{observed!r}] in the comparison.")
        # What was observed is drawn of one seed, which the panels name.
        title = f"{dataset['title']}\nData: {dataset['source']}"
    curve = dataset.get("curve")
    data = {
        **vars(metadata),
        "records": records,
        "arms": metadata.arms,
        "steps_per_epoch": metadata.settings["steps_per_epoch"],
        "x": curve and curve["validation_x"],
        "points": curve and (curve["x"], curve["y"]),
    }
    options = {key: data[key] for key in inspect.signature(drawing.draw).parameters if key in data}
    return plots.figure(title, drawing.draw, pyplot=pyplot, **options)


def save_figures(
    folder: str | os.PathLike, records: list[dict], metadata: Metadata, title: str
) -> list[Path]:
    """Write the figures that a report shows into `folder`, and return their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in metadata.figures:
        if name == "curves":
            steps = metadata.settings["steps_per_epoch"]
            paths.append(plots.save_curves(folder, records, title, steps)[0])
        else:
            paths.append(folder / f"{name}.png")
            draw_figure(name, records, metadata, title).savefig(paths[-1], dpi=120)
    return paths
