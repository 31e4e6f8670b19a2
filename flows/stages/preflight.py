"""What can be known to be wrong before any work starts."""

import numpy as np
from PIL import Image

from flows.config import RunConfig
from flows.stages.teacher import load_teacher
from tintem_core.errors import InputError
from tintem_core.students import natural_width
from tintem_core.training import check_optimizer
from tintem_core.views import ViewRecipe, render_view


def preflight(config: RunConfig) -> None:
    """Build teacher and student once.

    Raises:
        InputError: an unknown model, weights that do not fit, a width that cannot be reached.
    """
    natural = natural_width(config.student)
    teacher = load_teacher(config.teacher, config.runtime.device)
    check_optimizer(config.training.optimizer)
    if config.views.recipe.name == "timm":
        _try_policy(config.views.recipe)
    width = config.mapping.width or natural
    if width > teacher.backbone.width:
        raise InputError(
            f"the student's embedding would be {width} wide, but {config.teacher.model} has only "
            f"{teacher.backbone.width} dimensions to compress: set mapping.width to at most that."
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
