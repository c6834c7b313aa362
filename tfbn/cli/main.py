"""The command `tfbn`: arguments in, text out."""

import atexit
import os
import sys
import warnings
from typing import Any

import click
from rich.console import Console

from tfbn.cli.console import loading, open_console, stderr_silenced
from tfbn.cli.models import diagnose, export, fold, recalibrate
from tfbn.cli.options import DEVICE, JSON, example, flag
from tfbn.cli.train import compare, recipes, report, run
from tfbn.foundation.files import to_json
from tfbn.foundation.signals import exit_code, ignore_signals, sigterm_as_interrupt


@click.group(
    commands=[compare, run, recipes, report, diagnose, recalibrate, fold, export],
    context_settings=dict(help_option_names=["-h", "--help"], max_content_width=100, show_default=True),
    epilog=example("tfbn compare --quick"),
)
@click.version_option(package_name="tfbn")
def cli() -> None:
    """Batch normalization for Keras, and an honest comparison of networks with and without it."""


@cli.command(epilog=example("tfbn devices --json"))
@JSON
def devices(as_json: bool) -> None:
    """Show the devices, whether they train, and the versions."""
    with loading(as_json) as console:
        from tfbn.runtime import selftest
    with console.status("Trying the devices"), stderr_silenced():
        result = selftest.survey()
    _print_result(console, selftest.table(result), result, as_json)


def _print_result(console: Console, table: str, result: Any, as_json: bool) -> None:
    console.print(table)
    if as_json:
        print(to_json(result))


@cli.group(epilog=example("tfbn bench solver"))
def bench() -> None:
    """Time tfbn on this machine beside Keras, PyTorch and JAX."""


@bench.command("solver", epilog=example("tfbn bench solver --steps 200 --repeats 3"))
@click.option("--steps", default=1718, help="Steps in a run; an epoch has 1718.")
@click.option("--repeats", default=5, help="Runs of each library, of which the median counts.")
@DEVICE
@flag("--stream", help="Time tfbn and Keras alone, on a tf.data.Dataset.")
@JSON
def bench_solver(as_json: bool, **options: Any) -> None:
    """Time a training step of both networks of `tfbn compare`."""
    with loading(as_json) as console:
        from tfbn.bench import solver
    with console.status("Timing") as status, stderr_silenced():
        result = solver.solver(**options, on_run=lambda name: status.update(f"Timing {name}"))
    _print_result(console, solver.table(result), result, as_json)


@bench.command("layer", epilog=example("tfbn bench layer --repeats 3"))
@click.option("--repeats", default=7, help="Runs of each library, of which the median counts.")
@DEVICE
@JSON
def bench_layer(as_json: bool, **options: Any) -> None:
    """Time one batch norm layer; takes about two minutes."""
    with loading(as_json) as console:
        from tfbn.bench import layer
    with console.status("Timing") as status, stderr_silenced():
        result = layer.layer(**options, on_case=lambda case: status.update(f"Timing {case}"))
    _print_result(console, layer.table(result), result, as_json)


def main() -> None:
    """Run the command and exit; bad input ends in one line on standard error and exit code 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sigterm_as_interrupt()
    errors = open_console(stderr=True)
    warnings.showwarning = lambda message, *_, **__: errors.print(f"Warning: {message}")
    code = _run_command(errors)
    atexit.register(ignore_signals)  # A signal while Python ends would change the exit code.
    exec("")  # `python -m` would forget the code if a signal came amid another text that Python executes.
    sys.exit(code)


def _run_command(errors: Console) -> int | None:
    """Run the command, print its error as one line, and return the exit code."""
    try:
        return cli.main(prog_name="tfbn", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as help_text:
        print(help_text.format_message())
        return 0
    except (click.Abort, KeyboardInterrupt):
        errors.print("Interrupted: nothing was written.")
        return exit_code()
    except click.ClickException as error:
        message = error.format_message()
    except (ValueError, TypeError, OSError) as error:
        message = str(error) or type(error).__name__
    except Exception as error:
        # The name of TensorFlow's class, because TensorFlow may not be loaded.
        if not isinstance(error, MemoryError) and type(error).__name__ != "ResourceExhaustedError":
            raise
        message = "this does not fit into memory. Use fewer or narrower layers, or less data."
        if "No space left on device" in str(error):  # TensorFlow raises the same class.
            message = "no space is left on the device."
    errors.print(f"Error: {message}")
    return 2
