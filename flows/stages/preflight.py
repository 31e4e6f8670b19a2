"""What can be known to be wrong before any work starts."""

import numpy as np
from PIL import Image

from flows.config.cluster import require_ray
from flows.config.run import RunConfig
from flows.data.weights import initial_weights
from flows.stages.models import load_teacher
from tintem_core.errors import InputError
from tintem_core.models.student import natural_width
from tintem_core.training.state import check_optimizer
from tintem_core.views import ViewRecipe, render_view


def preflight(config: RunConfig) -> None:
    """Build teachers and student once.

    Raises:
        InputError: an unknown model, weights that do not fit, a width that cannot be reached, a
            cluster without Ray.
    """
    if config.runtime.cluster is not None:
        require_ray()
    natural = natural_width(config.student)
    check_optimizer(config.training.optimizer)
    if config.views.recipe.name == "timm":
        _try_policy(config.views.recipe)
    if config.student.weights is not None:
        initial_weights(config)
    teachers = [load_teacher(each, config.runtime.device) for each in config.teachers]
    names = " and ".join(each.model for each in config.teachers)
    width, available = config.mapping.width or natural, sum(t.backbone.width for t in teachers)
    if width > available:
        raise InputError(
            f"the student's embedding would be {width} wide, but {names} has only {available} "
            "dimensions to compress: set mapping.width to at most that."
        )
    for teacher in teachers:
        tokens, embedding = teacher.backbone.token_width, teacher.backbone.width
        if config.cache.tokens and tokens != embedding:
            raise InputError(
                f"the patch tokens of {teacher.config.model} are {tokens} wide, its embedding "
                f"{embedding}: one mapping cannot serve both. Set cache.tokens to false, or choose "
                "another teacher."
            )


def _try_policy(recipe: ViewRecipe) -> None:
    """Cut one view: timm reads the policy only then, and asserts."""
    grey = Image.fromarray(np.full((32, 32, 3), 128, np.uint8))
    try:
        render_view(grey, "", 0, recipe, 32, 32)
    except (AssertionError, ValueError, KeyError) as error:
        raise InputError(
            f"views.recipe.augment: '{recipe.augment}' is no RandAugment policy of timm; "
            "'rand-m9-mstd0.5-inc1' is one."
        ) from error
