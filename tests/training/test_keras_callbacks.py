"""Keras' own tests of its callbacks, run with `Solver.fit` in the place of `Model.fit`.

They ship in Keras' wheel. Where a call needs what `Solver.fit` does not have, Keras' own fit takes it.
"""

import functools
import types

import keras
import numpy as np
import pytest

import tfbn

MODULES = (
    *("backup_and_restore", "callback", "csv_logger", "early_stopping", "lambda_callback"),
    *("learning_rate_scheduler", "model_checkpoint", "reduce_lr_on_plateau"),
    *("swap_ema_weights", "tensorboard", "terminate_on_nan"),
)
# What is not called, or not written, as it happens at a batch; or what cannot run in this process.
LEFT_OUT = {
    "test_best_case_step": "interrupts at a batch, and saves there",
    "test_lambda_callback_with_batches": "on_train_batch_begin and on_train_batch_end",
    "test_TensorBoard_batch_metrics": "update_freq=1",
    "test_TensorBoard_global_step": "update_freq=1",
    "test_custom_summary": "update_freq=1",
    "test_TensorBoard_auto_trace": "profile_batch=1",
    "test_raise_error_terminate_stops_on_later_batch": "the error names a batch",
    "test_swap_ema_weights_with_tf_distribute": "resets TensorFlow's devices; see test_callbacks.py",
}

keras_compile, keras_fit = keras.Model.compile, keras.Model.fit
compiled, solvers = {}, {}  # What each model was compiled with, and its solver.


@functools.wraps(keras_compile)
def remembering_compile(model, optimizer="rmsprop", loss=None, metrics=None, **options):
    keras_compile(model, optimizer, loss, metrics=metrics, **options)
    compiled[model] = dict(loss=loss, metrics=metrics)
    solvers.pop(model, None)


def solver_fit(model, x, y, callbacks=None, validation_split=0.0, verbose=1, **options):
    if "validation_freq" in options or any(
        getattr(each, "save_freq", "epoch") != "epoch" for each in callbacks or ()
    ):
        return keras_fit(model, x, y, callbacks=callbacks, verbose=verbose, **options)
    if validation_split:
        train = int(len(x) * (1 - validation_split))
        options["validation_data"] = x[train:], y[train:]
        x, y = x[:train], y[:train]
    y = np.where(np.isinf(y), 1e30, y)  # Its square is infinite, too.
    options["batch_size"] = min(options.get("batch_size") or 32, len(x))
    arguments = compiled[model]
    solver = solvers.get(model) or tfbn.Solver(model, model.optimizer, jit=False, **arguments)
    history = solver.fit(x, y, callbacks=callbacks, verbose=verbose, **options)
    compiled[model], solvers[model] = arguments, solver
    return types.SimpleNamespace(history=history.history, epoch=[epoch - 1 for epoch in history["epoch"]])


@pytest.fixture(autouse=True)
def solver_in_place_of_keras(monkeypatch):
    for name, replacement in (("compile", remembering_compile), ("fit", solver_fit)):
        owner = next(kind for kind in keras.Model.__mro__ if name in vars(kind))
        monkeypatch.setattr(owner, name, replacement)
    yield
    compiled.clear()
    solvers.clear()


def suites():
    for name in MODULES:
        module = pytest.importorskip(f"keras.src.callbacks.{name}_test")
        for kind in vars(module).values():
            if isinstance(kind, type) and kind.__module__ == module.__name__ and "Test" in kind.__name__:
                yield type(kind.__name__, (kind,), dict.fromkeys(LEFT_OUT))


globals().update({f"TestSolver{suite.__name__}": suite for suite in suites()})
