"""Recipes are data: their texts, and how their settings resolve."""

import re
import subprocess
import sys

import pytest

from tfbn.recipes import RECIPES, find
from tfbn.recipes.recipe import DEFAULTS, Recipe, Vary


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_states_question_source_expectation_and_cost(name):
    recipe = find(name)
    assert recipe.question.endswith("?")
    assert recipe.source
    assert any(character.isdigit() for character in recipe.expected), "numbers, not hopes"
    assert re.search(r"\d+ (s|minutes) for (one|six)", recipe.cost)
    assert set(recipe.settings) <= set(DEFAULTS)
    assert set(recipe.quick) <= set(DEFAULTS)
    assert recipe.quick["seeds"] == 1


def test_resolve_and_find_reject_what_does_not_exist():
    with pytest.raises(TypeError, match=r"Unknown setting epoch\. Known: .*epochs"):
        find("depth").resolve(epoch=3)
    with pytest.raises(ValueError, match="varies a setting"):
        find("wave").resolve(values=(1, 2))
    with pytest.raises(ValueError, match="'learning_rate' is what this recipe varies"):
        find("learning-rate").resolve(learning_rate=0.1)
    assert find("cifar_depth") is find("cifar-depth")
    with pytest.raises(ValueError, match=r"Unknown recipe 'waves'\. Known: side-by-side"):
        find("waves")


def test_resolve_prefers_overrides_to_the_quick_look_to_the_recipe():
    recipe = Recipe(
        "?",
        dict(epochs=20, seeds=3, hidden=(5,)),
        Vary("initializer", (1, 2), "Scale"),
        dict(epochs=2, seeds=1),
    )
    settings = recipe.resolve(quick=True, seeds=4, values=(3,))
    assert [settings[key] for key in ("epochs", "seeds", "hidden", "values")] == [2, 4, (5,), (3,)]
    assert settings["learning_rate"] == DEFAULTS["learning_rate"]
    assert recipe.resolve()["epochs"] == 20


def test_listing_imports_neither_tensorflow_nor_numpy():
    script = "import sys; import tfbn.recipes; print({'tensorflow', 'numpy'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"
    )
