"""What `import tfbn` gives: names that are always there, and classes that Keras knows."""

import inspect
import subprocess
import sys
import typing

import pytest

import tfbn


def public_callables():
    """All public functions, and the public methods of public classes, by name."""
    for name in tfbn.__all__:
        value = getattr(tfbn, name)
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for method, function in vars(value).items():
                function = getattr(function, "__func__", getattr(function, "fget", function))
                own = inspect.isfunction(function) and function.__module__.startswith("tfbn")
                if own and (method == "__init__" or not method.startswith("_")):
                    yield f"{name}.{method}", function


def test_every_public_name_resolves():
    assert {"BatchNormalization", "Model", "Solver", "compare", "data", "export"} <= set(tfbn.__all__)
    assert set(tfbn.__all__) <= set(dir(tfbn))
    for name in tfbn.__all__:
        assert getattr(tfbn, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        tfbn.nothing  # noqa: B018


PUBLIC = dict(public_callables())


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_are_annotated(name):
    function = PUBLIC[name]
    parameters = [
        p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")
    ]
    assert not [p.name for p in parameters if p.annotation is p.empty]
    assert name.endswith("__init__") or "return" in function.__annotations__


def test_public_classes_have_documented_types():
    assert typing.get_type_hints(tfbn.Arm.__init__)["build"]


@pytest.mark.parametrize("order", ["import tfbn, keras", "import keras, tfbn"])
def test_import_registers_the_classes_with_keras_in_either_order(order, tmp_path):
    path = tmp_path / "model.keras"
    tfbn.Model(3, 2, (4,)).save(path)
    script = f"{order}; print(type(keras.models.load_model({str(path)!r})).__module__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "tfbn.models\n", done.stderr


def test_deep_import_registers_the_classes_with_keras(tmp_path):
    """The hook runs while a module of the package is half imported."""
    for module in ("layers.kernels", "training.steps"):
        script = (
            f"import tfbn.{module}, keras\n"
            "names = 'tfbn>BatchNormalization', 'tfbn>Model', 'tfbn>MaskedIdentity'\n"
            "print([keras.saving.get_registered_object(name) is not None for name in names])"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
        assert done.stdout == "[True, True, True]\n", (module, done.stderr)


def test_a_script_called_tfbn_can_use_the_package(tmp_path):
    launcher = tmp_path / "tfbn"
    launcher.write_text("import tfbn\nprint(tfbn.Model(3, 2, (4,)).output_shape)\n")
    done = subprocess.run([sys.executable, launcher], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "(None, 2)\n", done.stderr


def test_import_alone_loads_no_tensorflow(tmp_path):
    script = "import sys, tfbn; print({'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "set()\n", done.stderr
