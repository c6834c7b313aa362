import re
import subprocess
import sys

import pytest

from tfbn.recipes import RECIPES, find
from tfbn.recipes.recipe import DEFAULTS, Recipe, Vary


@pytest.mark.parametrize("name", RECIPES)
def test_says_what_it_asks_and_what_to_expect(name):
    recipe = find(name)
    assert recipe.question.endswith("?")
    assert recipe.source
    assert any(character.isdigit() for character in recipe.expected), "figures, not hopes"
    assert re.search(r"\d+ (s|minutes) for (one|six)", recipe.cost)
    assert set(recipe.settings) <= set(DEFAULTS)
    assert set(recipe.quick) <= set(DEFAULTS)
    assert recipe.quick["seeds"] == 1


def test_known_settings_only():
    with pytest.raises(TypeError, match=r"Unknown setting epoch\. Known: .*epochs"):
        find("depth").resolve(epoch=3)
    with pytest.raises(ValueError, match="varies something"):
        find("wave").resolve(values=(1, 2))
    with pytest.raises(ValueError, match="'learning_rate' is what this recipe varies"):
        find("learning-rate").resolve(learning_rate=0.1)
    assert find("cifar_depth") is find("cifar-depth")
    with pytest.raises(ValueError, match=r"Unknown recipe 'waves'\. Known: side-by-side"):
        find("waves")


def test_what_is_given_goes_before_a_quick_look_and_that_before_the_recipe():
    recipe = Recipe(
        "?",
        dict(epochs=20, seeds=3, hidden=(5,)),
        Vary("initializer", (1, 2), "Scale"),
        dict(epochs=2, seeds=1),
    )
    found = recipe.resolve(quick=True, seeds=4, values=(3,))
    assert (found["epochs"], found["seeds"], found["hidden"], found["values"]) == (2, 4, (5,), (3,))
    assert found["learning_rate"] == DEFAULTS["learning_rate"]
    assert recipe.resolve()["epochs"] == 20


def test_listing_loads_no_tensorflow():
    script = "import sys; import tfbn.recipes; print({'tensorflow', 'numpy'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"
    )
