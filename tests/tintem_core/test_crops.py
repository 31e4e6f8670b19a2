"""Where views are cut, as the settings of a recipe say."""

import numpy as np
import pytest

from tests.photos import photo
from tintem_core.views import EVAL, ViewRecipe, crop_box, generator, render_view


def boxes(recipe: ViewRecipe, width: int, height: int) -> np.ndarray:
    """Left, top, right, bottom of many views."""
    return np.array(
        [crop_box(generator(f"key{i}", 0, recipe), width, height, recipe) for i in range(500)]
    )


def test_never_and_always_mirrored() -> None:
    image = photo(4, (32, 32))
    plain = render_view(image, "k", 0, EVAL, 32, 32)
    for flip, wanted in ((0.0, plain), (1.0, plain[:, ::-1])):
        recipe = ViewRecipe(name="light", min_scale=1.0, max_ratio=1.0, flip=flip)
        for i in range(20):
            assert np.array_equal(render_view(image, f"key{i}", 0, recipe, 32, 32), wanted)


def test_areas_of_crops_are_spread_over_the_range_of_the_recipe() -> None:
    recipe = ViewRecipe(name="light", min_scale=0.3, max_ratio=1.0)
    left, top, right, bottom = boxes(recipe, 1000, 1000).T
    areas = (right - left) * (bottom - top) / 1e6
    assert 0.298 < areas.min() < 0.33
    assert 0.97 < areas.max() < 1.002
    assert abs(areas.mean() - 0.65) < 0.03


def test_crops_are_as_often_wide_as_high_within_the_ratio_of_the_recipe() -> None:
    recipe = ViewRecipe(name="light", min_scale=0.2, max_ratio=2.0)
    left, top, right, bottom = boxes(recipe, 4000, 4000).T
    area = (right - left) * (bottom - top) / 16e6
    # Larger ones are clipped to the image.
    ratios = ((right - left) / (bottom - top))[area < 0.45]
    assert len(ratios) > 100
    assert 0.499 < ratios.min() < 0.55
    assert 1.82 < ratios.max() < 2.004
    assert 0.4 < (ratios > 1).mean() < 0.6


def test_crops_lie_anywhere_in_the_image() -> None:
    recipe = ViewRecipe(name="light", min_scale=0.3, max_ratio=1.2)
    left, top, right, bottom = boxes(recipe, 1000, 1000).T
    for near, far in ((left, 1000 - right), (top, 1000 - bottom)):
        assert near.min() >= 0
        assert far.min() >= 0
        assert 0.45 < near.sum() / (near.sum() + far.sum()) < 0.55


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("light", [(29, 0, 527, 480), (207, 7, 600, 474), (120, 0, 551, 480)]),
        ("timm", [(51, 43, 395, 442), (159, 0, 606, 480), (67, 32, 590, 443)]),
    ],
)
def test_views_are_cut_where_those_of_older_caches_were(
    name: str, wanted: list[tuple[int, ...]]
) -> None:
    recipe = ViewRecipe.model_validate({"name": name})
    draws = [generator("0123456789abcdef" * 2, view, recipe) for view in range(3)]
    assert [crop_box(draw, 640, 480, recipe) for draw in draws] == wanted


def test_views_of_other_pixels_have_another_identity_and_lie_where_they_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipes = [EVAL, ViewRecipe(name="light"), ViewRecipe(name="timm")]
    identities = [recipe.identity() for recipe in recipes]
    places = [recipe.cutting() for recipe in recipes]
    monkeypatch.setattr("tintem_core.views._RESAMPLING_VERSION", 99)
    changed = [
        recipe.identity() != known for recipe, known in zip(recipes, identities, strict=True)
    ]
    # The evaluation view is resampled elsewhere: by what devices have, too.
    assert changed == [False, True, True]
    monkeypatch.undo()
    monkeypatch.setattr("tintem_core.views._DECODING_VERSION", 99)
    for recipe, known in zip(recipes, identities, strict=True):
        assert recipe.identity() != known
    assert [recipe.cutting() for recipe in recipes] == places
