"""`Comparison`: what came out of a comparison, as text, figures and files."""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfbn import plots
from tfbn.comparison import report
from tfbn.foundation.files import (
    check_new_folder,
    read_json,
    resolved,
    staged,
    to_json,
    write_csv,
    write_json,
)
from tfbn.verdict.judge import judge

# What draws a figure, and what has to be observed for it.
FIGURES = {
    "curves": (plots.all_curves, None),
    "sweep": (plots.sweeps, None),
    "by_value": (plots.by_value, None),
    "percentiles": (plots.inside, "percentiles"),
    "histograms": (plots.histograms, "histograms"),
    "fitted": (plots.fits, "outputs"),
}
SPREAD = "the mean of the seeds, a band from the lowest to the highest"
CAPTIONS = {
    "curves": f"Training and validation over the training: {SPREAD}",
    "sweep": f"What the runs came to over what is varied: {SPREAD}, crosses for runs that diverged",
    "by_value": f"Validation over the training, a panel for each value: {SPREAD}",
    "percentiles": "15th, 50th and 85th percentile of the inputs of one unit of the last hidden layer; "
    "below, the drift of all its units",
    "histograms": "Inputs of each hidden activation, before and after training",
    "fitted": "The fitted curve over the training, from light to dark",
}


@dataclass
class Comparison:
    """What a comparison recorded, and what it says.

    Attributes:
        records: list of dicts, one for each arm, seed and epoch: arm, seed, epoch (from 1), train_loss,
            train_accuracy, validation_loss, validation_accuracy (all in inference mode after the
            epoch; nats an example and fractions), seconds (of the epoch's training; an arm's first
            epoch includes compiling).
        test: list of dicts, one for each arm and seed that finished: arm, seed, loss, accuracy.
        about: dict of where the result comes from: versions, device, jit, command, dataset, settings;
            also `diverged`, the arms and seeds that ended at a loss that is no number, and
            `interrupted`.
        models: dict of arm to its trained `keras.Model`, of the last seed that did not diverge; empty in a
            comparison that was loaded.
    """

    records: list = field(repr=False)
    test: list
    about: dict = field(repr=False)
    models: dict = field(default_factory=dict, repr=False)

    @property
    def arms(self):
        """The names of the arms, in order."""
        return list(self.about["settings"]["arms"])

    @property
    def metric(self):
        """What the networks are judged by: "accuracy", or "loss" in a regression."""
        return "accuracy" if self.about["dataset"]["classes"] else "loss"

    def scores(self, arm, metric=None):
        """Test results of an arm: a dict of seed to `metric`, "accuracy" or "loss"; or `self.metric`."""
        return {
            result["seed"]: result[metric or self.metric] for result in self.test if result["arm"] == arm
        }

    def rows(self):
        """Test results as a list of lists of text, the first the header: mean, and lowest and highest seed.

        A row for each arm; in a sweep for each value, with a column for each series.
        """
        if self.about["vary"] is None:
            metrics = dict.fromkeys([self.metric, "loss"])
            rows = [["arm", *(f"test {metric}" for metric in metrics), "seeds", "ms/epoch"]]
            for arm in self.arms:
                seconds = [record["seconds"] for record in self.records if record["arm"] == arm]
                # Without an arm's first epoch, in which it is compiled.
                speed = f"{1000 * np.median(seconds[1:]):.0f}" if len(seconds) > 1 else "-"
                results = [_mean_and_range(self.scores(arm, metric).values()) for metric in metrics]
                rows.append([arm, *results, self._finished(arm), speed])
            return rows
        about = self.about["settings"]["arms"]
        places = {(arm["value"], arm["series"]): name for name, arm in about.items()}
        values, series = (
            list(dict.fromkeys(arm[key] for arm in about.values())) for key in ("value", "series")
        )
        rows = [[self.about["vary"]["label"], *(f"{name}, test {self.metric}" for name in series)]]
        for value in values:
            arms = [places.get((value, name)) for name in series]
            rows.append([str(value), *(self._result(arm) if arm else "-" for arm in arms)])
        return rows

    def _result(self, arm):
        result = _mean_and_range(self.scores(arm).values())
        finished = self._finished(arm)
        return f"{result} ({finished} seeds)" if " of " in finished else result

    def _finished(self, arm):
        finished, diverged = (
            len(self.scores(arm)),
            sum(item["arm"] == arm for item in self.about["diverged"]),
        )
        return f"{finished} of {finished + diverged}" if diverged else f"{finished}"

    def table(self):
        """`rows` as aligned text."""
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])

    def judge(self):
        """The differences between the series as `tfbn.verdict.Verdict`, numbers and sentences."""
        settings = self.about["settings"]
        rest = {name: settings[name] for name in ("reach", "steps_per_epoch")}
        return judge(self.records, self.test, settings["arms"], self.about["diverged"], **rest)

    def verdict(self):
        """What the results say in plain sentences and a table: differences by seed, and their chance."""
        said = f"{self.about['dataset']['title']}: {self.judge().text()}"
        for note in self.about["notes"]:
            said += f"\n\n{note}"
        if self.about["interrupted"]:
            said += "\n\nThe run was interrupted: it holds the epochs that had finished."
        return said

    def title(self):
        """Data set, seeds and source, for figures."""
        seeds = len({record["seed"] for record in self.records})
        shown = "1 seed" if seeds == 1 else f"mean and range of {seeds} seeds"
        return f"{self.about['dataset']['title']}: {shown}\n{self._source()}"

    def _source(self):
        return f"Data: {self.about['dataset']['source']}"

    def plot(self, axes=None):
        """Draw training and validation loss and accuracy on four matplotlib Axes, and return them.

        Of a sweep its figure "sweep" is drawn, and `axes` not used.
        """
        if self.about["vary"]:
            return self.figure("sweep", pyplot=True).axes
        steps = self.about["settings"]["steps_per_epoch"]
        return plots.overview(self.records, self.title(), axes, steps_per_epoch=steps)

    def figure(self, name, pyplot=False):
        """A matplotlib Figure.

        Args:
            name: str, "curves", "sweep", "by_value", "percentiles", "histograms" or "fitted".
            pyplot: bool, whether pyplot shows and keeps it. Default False.

        Raises:
            ValueError: there is no such figure, or its comparison observed nothing for it.
        """
        if name not in FIGURES:
            raise ValueError(f"Unknown figure {name!r}. Known: {', '.join(FIGURES)}.")
        draw, needs = FIGURES[name]
        if needs and not any(needs in item for item in self.about["observations"]):
            raise ValueError(f"The figure {name!r} needs observe=[{needs!r}] in the comparison.")
        settings, curve = self.about["settings"], self.about["dataset"].get("curve")
        data = {
            "records": self.records,
            "observations": self.about["observations"],
            "diverged": self.about["diverged"],
            "arms": settings["arms"],
            "vary": self.about["vary"],
            "steps_per_epoch": settings["steps_per_epoch"],
            "x": curve and curve["validation_x"],
            "points": curve and (curve["x"], curve["y"]),
        }
        taken = inspect.signature(draw).parameters.keys() & data.keys()
        # What was observed is drawn of one seed, which the panels name.
        title = f"{self.about['dataset']['title']}\n{self._source()}" if needs else self.title()
        return plots.figure(title, draw, pyplot=pyplot, **{key: data[key] for key in taken})

    def save_figures(self, folder):
        """Write the figures into `folder`; returns a list of paths, of those that a report shows."""
        paths = []
        for name in self.about["figures"]:
            if name == "curves":
                steps = self.about["settings"]["steps_per_epoch"]
                paths.append(plots.save_curves(folder, self.records, self.title(), steps)[0])
            else:
                paths.append(folder / f"{name}.png")
                self.figure(name).savefig(paths[-1], dpi=120)
        return paths

    def to_dict(self):
        """All of it but the models, as results.json holds it."""
        found = self.judge().to_dict()
        return {**self.about, "verdict": found, "records": self.records, "test": self.test}

    def to_json(self):
        """`to_dict` as JSON text."""
        return to_json(self.to_dict())

    def save(self, path, models=True, replace=False):
        """Write the comparison to the folder `path`: all of it, or nothing.

        ::

            results.json  history.csv  report.html  figures/*.png
            models/ARM.keras  models/ARM/ (SavedModel)

        Args:
            path: path of a folder that does not exist yet, or is empty.
            models: bool, whether to write the models. Default True.
            replace: bool, whether the results of an interrupted run there may be replaced. Default False.

        Raises:
            ValueError: `path` cannot be written, or holds something already.
        """
        path = check_destination(path, replace)
        if not models:
            for arm in self.about["settings"]["arms"].values():
                arm["model"] = None
        with staged(path) as folder:
            (folder / "figures").mkdir(parents=True)
            write_json(folder / "results.json", self.to_dict())
            write_csv(folder / "history.csv", self.records)
            self._write_report(folder / "report.html", self.save_figures(folder / "figures"))
            for arm, model in self.models.items() if models else ():
                (folder / "models").mkdir(exist_ok=True)
                model.save(folder / "models" / f"{arm}.keras")
                with _quiet():
                    model.export(folder / "models" / arm, verbose=False)
        return path

    def report(self, path):
        """Write all of it but the models as one HTML page, and return its path.

        Args:
            path: path of a file, or of a folder, which gets a report.html.
        """
        path = Path(path)
        path = path / "report.html" if path.is_dir() else path
        with tempfile.TemporaryDirectory() as folder:
            self._write_report(path, self.save_figures(Path(folder)))
        return path

    def _write_report(self, path, figures):
        shown = [(CAPTIONS[figure.stem], figure.read_bytes()) for figure in figures]
        verdict = _for_report(self.judge(), self.about["notes"])
        page = report.render(self.to_dict(), verdict, self.rows(), shown)
        path.write_text(page, encoding="utf-8")

    @classmethod
    def load(cls, path):
        """Read what `save` wrote, from its folder or its results.json, less the models.

        Raises:
            ValueError: `path` holds no comparison.
        """
        path = Path(path)
        try:
            content = read_json(path / "results.json" if path.is_dir() else path)
            content.pop("verdict")  # It follows from the rest.
            found = cls(content.pop("records"), content.pop("test"), content)
            _check(found)
            return found
        except FileNotFoundError:
            raise ValueError(
                f"{path} holds no results.json. Name a folder that a comparison was saved in."
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} holds no results.json of a comparison: {error!r}") from error


def _check(comparison):
    """Raise KeyError or TypeError for a comparison that was loaded and lacks something."""
    about = comparison.about
    for key in ("versions", "device", "vary", "recipe", "figures", "notes", "diverged", "interrupted"):
        about[key]
    for key in ("title", "source", "classes"):
        about["dataset"][key]
    for key in ("arms", "reach", "steps_per_epoch"):
        about["settings"][key]
    for record in (*comparison.records, *comparison.test):
        about["settings"]["arms"][record["arm"]], record["seed"]


def check_destination(path, replace=False):
    """Return `path` as a Path if results can be written there.

    Raises:
        ValueError: something is there already (but for an interrupted run, if `replace`), or the folder
            cannot be written.
    """
    path = resolved(path)
    if replace and path.is_dir() and any(path.iterdir()) and Comparison.load(path).about["interrupted"]:
        return path
    return check_new_folder(path)


@contextlib.contextmanager
def _quiet():
    """TensorFlow logs each export's path, which here is that of the staging folder."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(level)


def _for_report(verdict, more):
    """A verdict as `tfbn.report.render` takes it."""
    found = verdict.to_dict()
    rows = []
    for comparison in found["comparisons"]:
        for quantity, values in comparison["quantities"].items():
            low, high = values["interval"] or (None, None)
            rows.append(
                {
                    "quantity": quantity,
                    "names": [found["first"], comparison["other"]],
                    "first": values["first_mean"],
                    "other": values["other_mean"],
                    "difference": values["mean"],
                    "low": low,
                    "high": high,
                    "decides": quantity == comparison["decides"],
                    # Of a single pair they would look certain.
                    **{
                        name: values[name] if values["pairs"] > 1 else None for name in ("p", "probability")
                    },
                    **{name: values[name] for name in ("wins", "pairs")},
                }
            )
    notes = [note for comparison in found["comparisons"] for note in comparison["notes"]]
    return {"sentences": [*verdict.sentences(), *more], "rows": rows, "note": " ".join(notes)}


def _mean_and_range(values):
    values = list(values)
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{np.mean(values):.4f} ({min(values):.4f}–{max(values):.4f})"
