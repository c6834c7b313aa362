"""The commands that read a finished model: diagnose, recalibrate, fold, export."""

import math
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

import tfbn
from tfbn.cli.console import loading, stderr_silenced
from tfbn.cli.options import COUNT, DATA_DIR, JSON, Decorator, ListOf, add_options, example, flag
from tfbn.diagnosis import CODES
from tfbn.foundation.files import to_json
from tfbn.foundation.pixels import RANGES, from_pixels


def tolerance(default: str) -> Decorator:
    """Return the option --tolerance."""
    return click.option(
        "--tolerance",
        type=click.FloatRange(0, min_open=True),
        help="Largest difference of an output allowed, as a share of the largest output.",
        show_default=default,
    )


def model_and_data(split: str, dataset: str | None) -> Decorator:
    """Return a decorator that adds the argument MODEL and the options of the data to run it on."""
    shown = dataset or "generated numbers"
    splits = click.Choice(["train", "validation", "test"])
    return add_options(
        click.argument("path", metavar="MODEL"),
        click.option(
            "--dataset", default=dataset, help="Data set, as in `tfbn compare`.", show_default=shown
        ),
        click.option("--split", default=split, type=splits, help="Part of the data set."),
        click.option(
            "--scale",
            type=click.Choice(list(RANGES)),
            help="Range in which MODEL takes pixels.",
            show_default="what its first layers show, else 0..1",
        ),
        DATA_DIR,
    )


def _code(text: str) -> str:
    return CODES[CODES.index(text.strip())]  # A ValueError for another.


def _load(
    path: str,
    dataset: str | None,
    split: str,
    data_dir: str | None,
    scale: str | None,
    out: str | None = None,
    suffix: str = ".keras",
    needs_batchnorm: bool = True,
    stderr: bool = False,
) -> tuple[Console, Any, Any, str | None]:
    """Return a console, the model in the file `path`, examples, and the range of their pixels.

    Without a `dataset` there are no examples, None, and the range is `scale`.
    """
    with loading(stderr) as console:
        from tfbn.layers import inspection
        from tfbn.serving import keras_files

        if out is not None:
            keras_files.check_new_file(out, suffix)
        model = keras_files.load(path)
        if needs_batchnorm:
            inspection.find_batchnorms(model)
    if dataset is None:
        return console, model, None, scale
    with console.status(escape(f"Loading {dataset}")):
        from tfbn.diagnosis.pixels import pixel_range

        loaded = tfbn.data.load(dataset, data_dir=data_dir, flatten=False)
    examples = loaded.splits()[split]
    x = _shaped(model, examples.x, loaded.title)
    console.print(f"{len(x):,} examples: the {split} split of {loaded.title}, {loaded.source}")
    if loaded.classes:  # These are images.
        scale, reason = pixel_range(model, scale)
        console.print(f"Pixels are fed as {scale}: {reason}. (Option --scale)")
        x = _fed(model, x, scale)
    return console, model, examples._replace(x=x), scale


def _inputs(model: Any) -> list:
    return getattr(model, "inputs", None) or []  # A subclassed model has none.


def _shaped(model: Any, x: Any, title: str) -> Any:
    """Return `x` in the shape of the model's input, flat or without an axis of length 1, if it has one."""
    from tfbn.data.adapters import fits

    inputs = _inputs(model)
    if len(inputs) != 1 or fits(inputs[0].shape[1:], x.shape[1:]):
        return x
    expected = tuple(inputs[0].shape[1:])
    long, received = ([size for size in shape if size != 1] for shape in (expected, x.shape[1:]))
    if long != received and long != [math.prod(received)]:
        raise ValueError(
            f"MODEL reads examples of the shape {expected}, {title} has {x.shape[1:]}. Choose another "
            "--dataset; for data of your own, use tfbn in Python."
        )
    return x.reshape(len(x), *expected)


def _fed(model: Any, x: Any, scale: str) -> Any:
    """Return images of 0..1, as data sets give them, in the range `scale` and the type that MODEL takes."""
    x = from_pixels((255 * x).round(), scale)
    takes_uint8 = [tensor.dtype for tensor in _inputs(model)] == ["uint8"]
    return x.astype("uint8") if takes_uint8 and scale == "0..255" else x


@click.command(epilog=example("tfbn diagnose runs/mine/models/batchnorm.keras --out averages.png"))
@model_and_data("validation", "mnist")
@click.option("--batch-size", default=32, type=COUNT, help="Examples in a batch of the training.")
@click.option(
    "--steps",
    type=click.IntRange(0),
    help="Steps of the training.",
    show_default="those in MODEL's optimizer",
)
@click.option("--out", help="PNG file to write a figure to.", show_default="no figure")
@click.option(
    "--fail-on",
    type=ListOf(_code, f"codes: any of {', '.join(CODES)}"),
    help=f"Findings that make the exit code 1, separated by commas: {', '.join(CODES)}.",
    show_default="none",
)
@JSON
def diagnose(
    path: str,
    dataset: str,
    split: str,
    data_dir: str | None,
    scale: str | None,
    out: str | None,
    fail_on: tuple[str, ...] | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Check the moving averages of MODEL, a .keras file."""
    console, model, examples, scale = _load(
        path, dataset, split, data_dir, scale, out, ".png", stderr=as_json
    )
    with console.status("Running the model"), stderr_silenced():
        diagnosis = tfbn.diagnose(model, examples, **options)
        if out:
            diagnosis.save_figure(out)
    console.print(f"\n{diagnosis.table()}")
    if out:
        console.print(f"\nSaved the figure as {out}", soft_wrap=True)
    if as_json:
        print(to_json({"scale": scale} | diagnosis.to_dict()))
    return int(bool(set(fail_on or ()) & set(diagnosis.codes)))


@click.command(epilog=example("tfbn recalibrate model.keras --out recalibrated.keras"))
@model_and_data("train", "mnist")
@click.option("--out", required=True, help=".keras file to write.")
@click.option("--batch-size", default=256, type=COUNT, help="Examples in a batch.")
@flag("--unbiased", help="Apply Bessel's correction to the variances.")
@flag("--one-pass", help="Read the data once, while all layers normalise by the batch.")
@flag("--force", help="Accept statistics by which far fewer predictions are right.")
@JSON
def recalibrate(
    path: str,
    dataset: str,
    split: str,
    data_dir: str | None,
    scale: str | None,
    out: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Give MODEL, a .keras file, exact statistics of the data."""
    console, model, examples, scale = _load(path, dataset, split, data_dir, scale, out, stderr=as_json)
    with console.status("Running the model") as status, stderr_silenced():
        from tfbn.serving import keras_files

        def show(name, done, batch):
            status.update(escape(f"{name or 'All layers'}, batch {batch}; layers done: {done}"))

        keras_files.save(tfbn.recalibrate(model, examples, on_batch=show, **options), out)
    console.print(f"Saved {out}", soft_wrap=True)
    if as_json:
        print(to_json({"out": out, "examples": len(examples.y), "scale": scale} | options))


@click.command(epilog=example("tfbn fold recalibrated.keras --out folded.keras"))
@model_and_data("test", None)
@click.option("--out", required=True, help=".keras file to write.")
@tolerance("measured")
@JSON
def fold(
    path: str,
    dataset: str | None,
    split: str,
    data_dir: str | None,
    scale: str | None,
    out: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Fold batch norm of MODEL, a .keras file, into other layers."""
    console, model, examples, scale = _load(path, dataset, split, data_dir, scale, out, stderr=as_json)
    with console.status("Folding"), stderr_silenced():
        from tfbn.serving import keras_files

        folded = tfbn.fold(model, examples and examples.x, **options)
        keras_files.save(folded, out)
    console.print(folded.folding.table())
    console.print(f"Saved {out}", soft_wrap=True)
    if as_json:
        print(to_json({"out": out, "scale": scale} | vars(folded.folding)))


@click.command(epilog=example("tfbn export recalibrated.keras --out served --formats savedmodel,onnx"))
@model_and_data("test", None)
@click.option("--out", required=True, help="Folder to write.")
@click.option(
    "--formats",
    default="savedmodel",
    type=ListOf(str.strip, "formats"),
    help="Formats, separated by commas: savedmodel, litert, onnx.",
)
@click.option("--fold/--no-fold", default=True, help="Fold batch norm layers first.")
@flag("--images", help="Add a signature from uint8 images to probabilities.")
@tolerance("measured")
@click.option(
    "--quantize",
    type=click.Choice(["float16", "int8"]),
    help="Store the weights of the LiteRT file so; int8 needs --dataset.",
    show_default="float32",
)
@JSON
def export(
    path: str,
    dataset: str | None,
    split: str,
    data_dir: str | None,
    scale: str | None,
    out: str,
    images: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Export MODEL, a .keras file, and prove the outputs equal."""
    console, model, examples, scale = _load(
        path, dataset, split, data_dir, scale, needs_batchnorm=False, stderr=as_json
    )
    options |= {"images": True, "scale": scale} if images else {}
    with console.status("Exporting") as status, stderr_silenced():
        result = tfbn.export(
            model, out, data=examples, on_format=lambda name: status.update(f"Exporting {name}"), **options
        )
    console.print(result.table())
    if images:
        scale = result.about["scale"]
        console.print(f"serve_images feeds the model pixels of {scale}: {result.about['scale_reason']}.")
    console.print(f"Saved in {out}", soft_wrap=True)
    if as_json:
        print(to_json({"out": out, "rows": result.rows} | result.about | {"scale": scale}))
