"""The classic experiments as data, and what runs them."""

from tfbn.recipes.classics import RECIPES as RECIPES
from tfbn.recipes.classics import find as find
