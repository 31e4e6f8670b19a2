"""Settings by the number of photos."""

from pathlib import Path

import pytest

from flows.config.load import load_config
from flows.config.recipes import RECIPES, recipe_for, recipe_table

ROOT = Path(__file__).parents[3]


def test_the_documentation_shows_the_recipes_as_they_are() -> None:
    assert recipe_table() in (ROOT / "docs/training.md").read_text()


def test_every_number_of_photos_has_the_smallest_recipe_that_it_fits_into() -> None:
    counts = (1, 3_000, 3_001, 30_000, 30_001, 300_000, 300_001, 10**7)
    chosen = [RECIPES.index(recipe_for(count)) for count in counts]
    assert chosen == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("photos", [1_000, 10_000, 100_000, 1_000_000])
def test_a_training_has_some_thousand_to_some_hundred_thousand_steps(photos: int) -> None:
    recipe = recipe_for(photos)
    learned_from = 0.8 * photos
    steps = recipe.epochs * learned_from / (recipe.batch_size * (1 - recipe.support))
    assert 4_000 < steps < 400_000


def test_the_largest_recipe_has_the_papers_numbers() -> None:
    paper = load_config(ROOT / "deploy/recipes/cospress-imagenet.yaml")
    training, recipe = paper.training, RECIPES[-1]
    assert (recipe.epochs, recipe.batch_size) == (training.epochs, training.batch_size)
    assert recipe.learning_rate == training.learning_rate
    assert recipe.warmup_epochs == training.warmup_epochs
    assert (recipe.views, recipe.dtype) == (paper.views.count, paper.cache.dtype)
