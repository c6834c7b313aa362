"""The command `tfbn`: arguments in, text out. This and the other `cli_` files are all that prints."""

from __future__ import annotations

import atexit
import os
import sys
import warnings

import click

from tfbn.cli import models as cli_inference
from tfbn.cli import train as cli_experiments
from tfbn.cli.console import loading, open_console, stderr_silenced
from tfbn.foundation.signals import exit_code, ignore, sigterm_as_interrupt


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}
)
@click.version_option(package_name="tfbn")
def cli():
    """Batch normalization for Keras, and an honest comparison of networks with and without it."""


for command in (*cli_experiments.COMMANDS, *cli_inference.COMMANDS):
    cli.add_command(command)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone on standard output.")
def devices(as_json):
    """What there is to train on, and whether XLA works there; and the versions."""
    console = open_console(as_json)
    with loading(console):
        from tfbn.foundation.files import to_json
        from tfbn.runtime import selftest
    with console.status("Trying the devices"), stderr_silenced():
        found = selftest.survey()
    console.print(selftest.table(found))
    if as_json:
        print(to_json(found))


@cli.group()
def bench():
    """How fast on this machine, beside the peers that are installed."""


@bench.command("solver")
@click.option("--steps", default=1718, help="Steps a run; 1718 are an epoch.")
@click.option("--repeats", default=5, help="Alternating runs, of which the median counts.")
@click.option("--device", default="auto", help="auto, cpu, gpu, gpu:1, ...")
@click.option("--stream", is_flag=True, help="From a tf.data.Dataset, ours and Keras'.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone on standard output.")
def bench_solver(steps, repeats, device, stream, as_json):
    """One training step of both nets of `tfbn compare`: ours, Keras', PyTorch's and JAX'."""
    console = open_console(as_json)
    with loading(console):
        from tfbn.bench import solver as bench_solver
        from tfbn.foundation.files import to_json
    with console.status("Timing") as status, stderr_silenced():
        result = bench_solver.solver(
            steps, repeats, device, stream, on_run=lambda text: status.update(f"Timing {text}")
        )
    console.print(bench_solver.table(result))
    if as_json:
        print(to_json(result))


@bench.command("layer")
@click.option("--repeats", default=7, help="Alternating runs, of which the median counts.")
@click.option("--device", default="auto", help="auto, cpu, gpu, gpu:1, ...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone on standard output.")
def bench_layer(repeats, device, as_json):
    """One layer, training and inference: ours, Keras', PyTorch's, and a plain copy. Some two minutes."""
    console = open_console(as_json)
    with loading(console):
        from tfbn.bench import layer as bench_layer
        from tfbn.foundation.files import to_json
    with console.status("Timing") as status, stderr_silenced():
        result = bench_layer.layer(repeats, device, on_case=lambda text: status.update(f"Timing {text}"))
    console.print(bench_layer.table(result))
    if as_json:
        print(to_json(result))


def main():
    """Run the command; bad input ends in one line on standard error and exit code 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sigterm_as_interrupt()
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
    except (click.Abort, KeyboardInterrupt):
        errors.print("Interrupted: nothing was written.")
        code = exit_code()
    except Exception as error:
        # TensorFlow's class is not at hand where it was not loaded.
        if not isinstance(error, MemoryError) and type(error).__name__ != "ResourceExhaustedError":
            raise
        full = "No space left on device" in str(error)  # The same to TensorFlow.
        memory = "this does not fit into memory. Take fewer or narrower layers, or less data."
        errors.print(f"Error: {'no space is left on the device.' if full else memory}")
        code = 2
    atexit.register(ignore)  # A signal while Python ends would change the exit code.
    exec("")  # `python -m` would forget the code if a signal came amid another text that Python executes.
    sys.exit(code)
