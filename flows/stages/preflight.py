"""What can be known to be wrong before any work starts."""

from flows.config import RunConfig
from flows.stages.teacher import load_teacher
from flows.stages.train import initial_weights
from tintem_core.errors import InputError
from tintem_core.students import natural_width


def preflight(config: RunConfig) -> None:
    """Build teachers and student once.

    Raises:
        InputError: an unknown model, weights that do not fit, a width that cannot be reached.
    """
    natural = natural_width(config.student)
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
