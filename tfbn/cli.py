"""The command `tfbn`: arguments in, text out. With `cli_inference`, the only file that prints."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import time
import warnings

import click
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tfbn import cli_inference
from tfbn.console import hushed, open_console

INTERRUPTED = 130


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}
)
@click.version_option(package_name="tfbn")
def cli():
    """Batch normalization for Keras, and an honest comparison of networks with and without it."""


def integers(context, parameter, text):
    """A click callback: "32,32" -> (32, 32)."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of integers such as 32,32.") from None


@cli.command()
@click.option(
    "--dataset", default="mnist", help="mnist, fashion_mnist, kmnist, cifar10 or the like in TFDS."
)
@click.option(
    "--data-dir", help="Folder of prepared data.", show_default="$TFDS_DATA_DIR or ~/tensorflow_datasets"
)
@click.option("--epochs", default=10, type=click.IntRange(1), help="Passes over the training data.")
@click.option("--batch-size", default=32, type=click.IntRange(1), help="Examples a step.")
@click.option(
    "--seeds", default=3, type=click.IntRange(1, 1000), help="How many seeds to repeat the training with."
)
@click.option("--seed", default=0, type=click.IntRange(0), help="The first seed; the others follow by one.")
@click.option("--hidden", default="32,32", callback=integers, help="Widths of the hidden layers.")
@click.option("--activation", default="relu", help="A Keras activation.")
@click.option("--optimizer", default="adam", help="A Keras optimizer.")
@click.option(
    "--learning-rate", default=0.01, type=click.FloatRange(0), help="The optimizer's learning rate."
)
@click.option(
    "--validation-size", type=int, help="Examples held out.", show_default="5000; 500 of the sample"
)
@click.option("--device", default="auto", help="auto, cpu, gpu, gpu:1, ...")
@click.option("--precision", default="float32", help="float32, mixed_float16 or mixed_bfloat16.")
@click.option("--out", help="Folder for the results.", show_default="runs/DATASET-TIME")
@click.option("--no-fallback", is_flag=True, help="Fail rather than take the sample of MNIST.")
@click.option("--json", "as_json", is_flag=True, help="Print results.json alone on standard output.")
@click.option("--quick", is_flag=True, help="A look in seconds: 1 seed, 2 epochs, unless given otherwise.")
@click.pass_context
def compare(context, dataset, data_dir, out, no_fallback, as_json, quick, **options):
    """Train a network with and one without batch norm side by side.

    Both take the same batches and start from the same weights; several seeds say how far chance goes.
    Writes OUT/results.json, history.csv, figures/ and, for both, models/NAME.keras and a SavedModel.
    """
    if quick:
        for name, value in {"seeds": 1, "epochs": 2}.items():
            if context.get_parameter_source(name) is click.core.ParameterSource.DEFAULT:
                options[name] = value
    out = out or time.strftime(f"runs/{dataset.replace('/', '-')}-%Y%m%d-%H%M%S")
    console = open_console(as_json)
    with console.status("Loading TensorFlow"), hushed():
        import keras
        from absl import logging

        from tfbn import data
        from tfbn.compare import compare as run
        from tfbn.comparison import check_destination
        from tfbn.devices import check_precision, describe_device, find_device
        from tfbn.models import Model
        from tfbn.solver import make_optimizer

        # What can be known to be wrong before the data is loaded.
        device = find_device(options["device"])
        check_precision(options["precision"])
        keras.activations.get(options["activation"])
        make_optimizer(options["optimizer"], options["learning_rate"])
        logging.set_verbosity(logging.ERROR)  # TFDS warns of every set that is not prepared yet.
    check_destination(out)
    seeds = range(options["seed"], options["seed"] + options["seeds"])

    with console.status(escape(f"Loading {dataset}")):
        loaded = data.load(
            dataset,
            data_dir=data_dir,
            validation_size=options["validation_size"],
            fallback=not no_fallback,
        )
    sizes = "/".join(f"{len(split.y):,}" for split in loaded.splits().values())
    console.print(f"{loaded.title} from {loaded.source}: {sizes} to train/validate/test")
    console.print(f"Running on {describe_device(device)}")

    def build(use_batchnorm):
        return Model(
            loaded.input_shape,
            loaded.classes,
            hidden_dims=options["hidden"],
            use_batchnorm=use_batchnorm,
            activation=options["activation"],
        )

    arms = {"batchnorm": lambda: build(True), "plain": lambda: build(False)}
    with _live(console, arms, len(seeds) * options["epochs"]) as on_epoch:
        result = run(
            arms,
            loaded,
            epochs=options["epochs"],
            batch_size=options["batch_size"],
            seeds=list(seeds),
            optimizer=options["optimizer"],
            learning_rate=options["learning_rate"],
            device=device,
            precision=options["precision"],
            on_epoch=on_epoch,
            command=shlex.join(["tfbn", *sys.argv[1:]]),
        )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Nothing must be lost between here and the files.
    with console.status("Saving"), hushed():
        folder = result.save(out)
    console.print()
    console.print(result.table())
    console.print()
    console.print(result.verdict())
    console.print("\nSaved results.json, history.csv, figures and models in")
    console.print(str(folder), soft_wrap=True)
    if as_json:
        print(result.to_json())
    return INTERRUPTED if result.about["interrupted"] else 0


for command in cli_inference.COMMANDS:
    cli.add_command(command)


@cli.group()
def bench():
    """How fast on this machine, beside the peers that are installed."""


@bench.command("solver")
@click.option("--steps", default=1718, help="Steps a run; 1718 are an epoch.")
@click.option("--repeats", default=5, help="Alternating runs, of which the median counts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone on standard output.")
def bench_solver(steps, repeats, as_json):
    """One training step of both nets of `tfbn compare`: ours, Keras', PyTorch's and JAX'."""
    console = open_console(as_json)
    with console.status("Loading TensorFlow"), hushed():
        from tfbn import bench_solver
        from tfbn.history import to_json
    with console.status("Timing") as status, hushed():
        result = bench_solver.solver(steps, repeats, on_run=lambda text: status.update(f"Timing {text}"))
    console.print(bench_solver.table(result))
    if as_json:
        print(to_json(result))


@bench.command("layer")
@click.option("--repeats", default=7, help="Alternating runs, of which the median counts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone on standard output.")
def bench_layer(repeats, as_json):
    """One layer, training and inference: ours, Keras', PyTorch's, and a plain copy. Some two minutes."""
    console = open_console(as_json)
    with console.status("Loading TensorFlow"), hushed():
        from tfbn import bench_layer
        from tfbn.history import to_json
    with console.status("Timing") as status, hushed():
        result = bench_layer.layer(repeats, on_case=lambda text: status.update(f"Timing {text}"))
    console.print(bench_layer.table(result))
    if as_json:
        print(to_json(result))


@contextlib.contextmanager
def _live(console, arms, epochs):
    """Progress of all arms: bars in a terminal, a line an epoch elsewhere. Gives the callback."""
    if not console.is_terminal:
        yield lambda record: console.print(
            f"seed {record['seed']} epoch {record['epoch']:>2} {record['arm']:<9} "
            f"training loss {record['train_loss']:.4f} accuracy {record['train_accuracy']:.4f}, "
            f"validation loss {record['validation_loss']:.4f} accuracy {record['validation_accuracy']:.4f}"
        )
        return
    console.print("Epochs of all seeds; loss and accuracy as training/validation")
    name, left, text = (
        TextColumn(part) for part in ("{task.description:<9}", "left", "{task.fields[text]}")
    )
    columns = (name, BarColumn(6), MofNCompleteColumn(), TimeRemainingColumn(compact=True), left, text)
    with Progress(*columns, console=console) as progress:
        tasks = {arm: progress.add_task(arm, total=epochs, text="compiling") for arm in arms}

        def on_epoch(record):
            loss = f"{record['train_loss']:.3f}/{record['validation_loss']:.3f}"
            accuracy = f"{record['train_accuracy']:.3f}/{record['validation_accuracy']:.3f}"
            progress.update(tasks[record["arm"]], advance=1, text=f"loss {loss} accuracy {accuracy}")

        yield on_epoch


def main():
    """Run the command; bad input ends in one line on standard error and exit code 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    errors = open_console(stderr=True)
    warnings.showwarning = lambda message, *_, **__: errors.print(f"Warning: {message}")
    try:
        code = cli.main(prog_name="tfbn", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as help_text:
        print(help_text.format_message())
        code = 0
    except click.ClickException as error:
        errors.print(f"Error: {error.format_message()}")
        code = 2
    except (ValueError, TypeError, OSError) as error:
        errors.print(f"Error: {error}")
        code = 2
    except Exception as error:
        # TensorFlow's class is not at hand where it was not loaded.
        if not isinstance(error, MemoryError) and type(error).__name__ != "ResourceExhaustedError":
            raise
        errors.print("Error: this does not fit into memory. Take fewer or narrower layers, or less data.")
        code = 2
    except (click.Abort, KeyboardInterrupt):
        errors.print("Interrupted: nothing was written.")
        code = INTERRUPTED
    sys.exit(code)
