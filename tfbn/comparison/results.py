"""`Comparison`: the result of a comparison, as text, figures and files."""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfbn import plots
from tfbn.comparison import figures, report, storage
from tfbn.foundation.files import staged, to_json
from tfbn.foundation.tables import text_table
from tfbn.verdict.judge import Verdict, judge


@dataclass
class Comparison:
    """The result of a comparison.

    Attributes:
        records: a dict for each arm, seed and epoch: arm, seed, epoch (from 1), train_loss,
            train_accuracy, validation_loss, validation_accuracy (all in inference mode after the
            epoch; nats an example and fractions), seconds (of the epoch's training; an arm's first
            epoch includes compiling).
        test: a dict for each arm and seed that finished: arm, seed, loss, accuracy.
        about: where the result comes from: versions, device, jit, command, dataset, settings; also
            `diverged`, the arms and seeds that ended at a loss that is not finite, and `interrupted`.
        models: dict of arm to its trained `keras.Model`, of the last seed that did not diverge; empty in a
            comparison that was loaded.
    """

    records: list[dict] = field(repr=False)
    test: list[dict]
    about: dict[str, Any] = field(repr=False)
    models: dict[str, keras.Model] = field(default_factory=dict, repr=False)

    @property
    def metadata(self) -> storage.Metadata:
        """`about` with a name for each of its entries."""
        return storage.Metadata.from_dict(self.about)

    @property
    def arms(self) -> list[str]:
        """The names of the arms, in order."""
        return list(self.metadata.arms)

    @property
    def metric(self) -> str:
        """The measure that decides between networks: "accuracy", or "loss" in a regression."""
        return "accuracy" if self.metadata.dataset["classes"] else "loss"

    def scores(self, arm: str, metric: str | None = None) -> dict[int, float]:
        """Return the test results of an arm by seed: "accuracy" or "loss"; by default `self.metric`."""
        metric = metric or self.metric
        return {result["seed"]: result[metric] for result in self.test if result["arm"] == arm}

    def rows(self) -> list[list[str]]:
        """Return the test results as rows of strings, the header first: mean, lowest and highest seed.

        A row for each arm; in a sweep for each value, with a column for each series.
        """
        vary = self.metadata.vary
        if vary is not None:
            return self._rows_by_value(vary["label"])
        metrics = dict.fromkeys([self.metric, "loss"])
        rows = [["arm", *(f"test {metric}" for metric in metrics), "seeds", "ms/epoch"]]
        for arm in self.arms:
            seconds = [record["seconds"] for record in self.records if record["arm"] == arm]
            # Without an arm's first epoch, in which it is compiled.
            speed = f"{1000 * np.median(seconds[1:]):.0f}" if len(seconds) > 1 else "-"
            results = [_mean_and_range(self.scores(arm, metric).values()) for metric in metrics]
            rows.append([arm, *results, self._finished(arm), speed])
        return rows

    def _rows_by_value(self, label: str) -> list[list[str]]:
        arms = {(arm["value"], arm["series"]): name for name, arm in self.metadata.arms.items()}
        values, series = (dict.fromkeys(place[index] for place in arms) for index in (0, 1))
        rows = [[label, *(f"{name}, test {self.metric}" for name in series)]]
        for value in values:
            cells = (self._result(arms[value, name]) if (value, name) in arms else "-" for name in series)
            rows.append([str(value), *cells])
        return rows

    def _result(self, arm: str) -> str:
        result = _mean_and_range(self.scores(arm).values())
        finished = self._finished(arm)
        return f"{result} ({finished} seeds)" if " of " in finished else result

    def _finished(self, arm: str) -> str:
        finished = len(self.scores(arm))
        diverged = sum(run["arm"] == arm for run in self.metadata.diverged)
        return f"{finished} of {finished + diverged}" if diverged else f"{finished}"

    def table(self) -> str:
        """Return `rows` as an aligned table."""
        header, *rows = self.rows()
        return text_table(header, rows)

    def judge(self) -> Verdict:
        """Return the differences between the series, numbers and sentences."""
        about = self.metadata
        reach, steps = about.settings["reach"], about.settings["steps_per_epoch"]
        return judge(self.records, self.test, about.arms, about.diverged, reach, steps)

    def verdict(self) -> str:
        """Return the conclusion in plain sentences, and a table of the differences by seed."""
        metadata = self.metadata
        paragraphs = [f"{metadata.dataset['title']}: {self.judge().text()}", *metadata.notes]
        if metadata.interrupted:
            paragraphs.append("The run was interrupted: it holds the epochs that had finished.")
        return "\n\n".join(paragraphs)

    def title(self) -> str:
        """Return data set, seeds and source, as a figure's title."""
        seeds = len({record["seed"] for record in self.records})
        spread = "1 seed" if seeds == 1 else f"mean and range of {seeds} seeds"
        dataset = self.metadata.dataset
        return f"{dataset['title']}: {spread}\nData: {dataset['source']}"

    def plot(self, axes: Any = None) -> Any:
        """Draw training and validation loss and accuracy, and return the matplotlib Axes.

        A sweep draws its figure "sweep" in place of these.

        Args:
            axes: an array of four Axes, or of two in a regression. A sweep ignores them. Default None: a
                new pyplot figure.

        Raises:
            ValueError: `axes` are more or fewer.
        """
        metadata = self.metadata
        if metadata.vary:
            return self.figure("sweep", pyplot=True).axes
        count, word = (4, "four") if self.metric == "accuracy" else (2, "two")
        if axes is not None and np.size(axes) != count:
            raise ValueError(
                f"`axes` must be an array of {word} matplotlib Axes. Received: {np.size(axes)}. Take "
                f"plt.subplots({count // 2}, 2)[1], or leave `axes` out for a new figure."
            )
        return plots.overview(self.records, self.title(), axes, metadata.settings["steps_per_epoch"])

    def figure(self, name: str, pyplot: bool = False) -> plots.Figure:
        """Return a matplotlib Figure.

        Args:
            name: "curves", "sweep", "by_value", "percentiles", "histograms" or "fitted".
            pyplot: whether pyplot shows and keeps the figure. Default False.

        Raises:
            ValueError: there is no such figure, or the comparison did not observe what it shows.
        """
        return figures.draw_figure(name, self.records, self.metadata, self.title(), pyplot)

    def save_figures(self, folder: str | os.PathLike) -> list[Path]:
        """Write the figures into `folder`, and return the paths of those that a report shows."""
        return figures.save_figures(folder, self.records, self.metadata, self.title())

    def to_dict(self) -> dict[str, Any]:
        """Return all but the models, as results.json holds it."""
        verdict = self.judge().to_dict()
        return {**self.about, "verdict": verdict, "records": self.records, "test": self.test}

    def to_json(self) -> str:
        """Return `to_dict` as JSON."""
        return to_json(self.to_dict())

    def save(self, path: str | os.PathLike, models: bool = True, replace: bool = False) -> Path:
        """Write the comparison to the folder `path`: all of it, or nothing.

        ::

            results.json  history.csv  report.html  figures/*.png
            models/ARM.keras  models/ARM/ (SavedModel)

        Args:
            path: a folder that does not exist yet, or is empty.
            models: whether to write the models. Default True.
            replace: whether the results of an interrupted run there may be replaced. Default False.

        Returns:
            The folder's path.

        Raises:
            ValueError: `path` cannot be written, or holds something already.
        """
        path = storage.check_destination(path, replace)
        saved = self.models if models else {}
        content = self.to_dict()
        settings = content["settings"]
        arms = {
            name: arm if name in saved else {**arm, "model": None} for name, arm in settings["arms"].items()
        }
        content["settings"] = {**settings, "arms": arms}
        with staged(path) as folder:
            folder.mkdir()
            storage.write_results(folder, content, saved)
            self._write_report(folder / "report.html", content, folder / "figures")
        return path

    def report(self, path: str | os.PathLike) -> Path:
        """Write all but the models as one HTML page, and return its path.

        Args:
            path: a file, or a folder, which gets a report.html.
        """
        path = Path(path)
        path = path / "report.html" if path.is_dir() else path
        with tempfile.TemporaryDirectory() as folder:
            self._write_report(path, self.to_dict(), folder)
        return path

    def _write_report(self, path: Path, content: dict[str, Any], folder: str | os.PathLike) -> None:
        paths = self.save_figures(folder)
        captioned = [(figures.FIGURES[figure.stem].caption, figure.read_bytes()) for figure in paths]
        path.write_text(report.render(content, self.judge(), self.rows(), captioned), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Comparison":
        """Read what `save` wrote, from its folder or its results.json, without the models.

        Raises:
            ValueError: `path` does not hold a comparison.
        """
        return cls(*storage.load(path))


def _mean_and_range(scores: Iterable[float]) -> str:
    scores = list(scores)
    if not scores:
        return "-"
    if len(scores) == 1:
        return f"{scores[0]:.4f}"
    return f"{np.mean(scores):.4f} ({min(scores):.4f}–{max(scores):.4f})"
