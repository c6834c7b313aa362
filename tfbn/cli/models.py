"""The commands that take a finished model: diagnose, recalibrate, fold, export."""

from __future__ import annotations

import functools

import click
from rich.markup import escape

from tfbn.cli.console import loading, open_console, stderr_silenced


def names(context, parameter, text):
    """A click callback: "a,b" -> ("a", "b")."""
    return tuple(part.strip() for part in text.split(","))


def of_a_model(split, dataset, command):
    """The argument MODEL of the commands, and the options for the data to run it on."""
    options = [
        click.argument("path", metavar="MODEL"),
        click.option(
            "--dataset",
            default=dataset,
            help="A data set, as in `tfbn compare`.",
            show_default=dataset or "generated numbers",
        ),
        click.option(
            "--split",
            default=split,
            type=click.Choice(["train", "validation", "test"]),
            help="The part of the data set to take.",
        ),
        click.option(
            "--data-dir",
            help="Folder of prepared data.",
            show_default="$TFDS_DATA_DIR or ~/tensorflow_datasets",
        ),
    ]
    return functools.reduce(lambda command, option: option(command), reversed(options), command)


def _open(console, path, out=None, suffix=".keras", needs_batchnorm=True):
    """The model in the file `path`, once `out` is known to be a file that can be written."""
    with loading(console):
        from absl import logging

        import tfbn.models  # noqa: F401  so that Keras knows its classes
        from tfbn.layers import inspection
        from tfbn.serving import keras_files

        logging.set_verbosity(logging.ERROR)
        if out is not None:
            keras_files.check_new_file(out, suffix)
        model = keras_files.load(path)
        if needs_batchnorm:
            inspection.find_batchnorms(model)
        return model


def _examples(console, model, dataset, data_dir, split):
    """A split of a data set, in the shape that `model` takes."""
    with console.status(escape(f"Loading {dataset}")):
        from tfbn import data
        from tfbn.data.adapters import fits

        inputs = getattr(model, "inputs", None) or []  # A subclassed model knows none.
        flat = len(inputs) == 1 and len(inputs[0].shape) == 2
        loaded = data.load(dataset, data_dir=data_dir, flatten=flat)
    examples = loaded.splits()[split]
    if len(inputs) == 1 and not fits(inputs[0].shape[1:], examples.x.shape[1:]):
        raise ValueError(
            f"MODEL takes examples of the shape {tuple(inputs[0].shape[1:])}, {loaded.title} has "
            f"{examples.x.shape[1:]}. Choose another --dataset; for data of your own, use tfbn in Python."
        )
    console.print(f"{len(examples.y):,} examples: the {split} split of {loaded.title}, {loaded.source}")
    return examples


@click.command()
@functools.partial(of_a_model, "validation", "mnist")
@click.option("--batch-size", default=32, type=click.IntRange(1), help="That of training.")
@click.option("--steps", type=click.IntRange(0), help="Steps of training, if MODEL does not say.")
@click.option("--out", help="A PNG file for the figure.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone on standard output.")
def diagnose(path, dataset, split, data_dir, batch_size, steps, out, as_json):
    """Look whether MODEL, a .keras file, normalises by the statistics of its data."""
    console = open_console(as_json)
    model = _open(console, path, out, ".png")
    examples = _examples(console, model, dataset, data_dir, split)
    with console.status("Running the model"), stderr_silenced():
        from tfbn.diagnosis.diagnose import diagnose as run

        diagnosis = run(model, examples, batch_size=batch_size, steps=steps)
        if out:
            diagnosis.save_figure(out)
    console.print()
    console.print(diagnosis.table())
    if out:
        console.print(f"\nSaved the figure as {out}", soft_wrap=True)
    if as_json:
        print(diagnosis.to_json())


@click.command()
@functools.partial(of_a_model, "train", "mnist")
@click.option("--out", required=True, help="The .keras file to write.")
@click.option("--batch-size", default=256, type=click.IntRange(1), help="Examples at a time.")
@click.option("--unbiased", is_flag=True, help="Apply Bessel's correction to the variances.")
@click.option("--one-pass", is_flag=True, help="Read the data once, all layers normalising by batches.")
def recalibrate(path, dataset, split, data_dir, out, **options):
    """Write MODEL, a .keras file, with the statistics of the data in place of moving averages."""
    console = open_console(False)
    model = _open(console, path, out)
    examples = _examples(console, model, dataset, data_dir, split)
    with console.status("Running the model") as status, stderr_silenced():
        from tfbn.diagnosis.recalibrate import recalibrate as run
        from tfbn.serving import keras_files

        def tell(name, done, batch):
            status.update(escape(f"{name or 'All layers'}, batch {batch}; layers done: {done}"))

        keras_files.save(run(model, examples, on_batch=tell, **options), out)
    console.print(f"Saved {out}", soft_wrap=True)


@click.command()
@functools.partial(of_a_model, "test", None)
@click.option("--out", required=True, help="The .keras file to write.")
def fold(path, dataset, split, data_dir, out):
    """Write MODEL, a .keras file, with its batch norm layers folded into their neighbours."""
    console = open_console(False)
    model = _open(console, path, out)
    examples = dataset and _examples(console, model, dataset, data_dir, split).x
    with console.status("Folding"), stderr_silenced():
        from tfbn.serving import keras_files
        from tfbn.transforms.fold import fold as run

        folded = run(model, examples)
        keras_files.save(folded, out)
    console.print(folded.folding.table())
    console.print(f"Saved {out}", soft_wrap=True)


@click.command()
@functools.partial(of_a_model, "test", None)
@click.option("--out", required=True, help="The folder to write.")
@click.option(
    "--formats", default="savedmodel", callback=names, help="Of savedmodel, litert and onnx, with commas."
)
@click.option("--fold/--no-fold", "fold_first", default=True, help="Fold batch norm away first.")
@click.option("--images", is_flag=True, help="Add a signature from uint8 images to probabilities.")
def export(path, dataset, split, data_dir, out, formats, fold_first, images):
    """Export MODEL, a .keras file, and prove in each format's own runtime that it gives the same."""
    console = open_console(False)
    model = _open(console, path, needs_batchnorm=False)
    examples = dataset and _examples(console, model, dataset, data_dir, split)
    with console.status("Exporting") as status, stderr_silenced():
        from tfbn.serving.export import export as run

        result = run(
            model,
            out,
            formats=formats,
            fold=fold_first,
            data=examples,
            images=images,
            on_format=lambda text: status.update(f"Exporting {text}"),
        )
    console.print(result.table())
    console.print(f"Saved in {out}", soft_wrap=True)


COMMANDS = (diagnose, recalibrate, fold, export)
