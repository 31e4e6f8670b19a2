"""What can be known to be wrong before any work starts."""

from flows.config import RunConfig
from flows.stages.teacher import load_teacher
from tintem_core.errors import InputError
from tintem_core.students import natural_width


def preflight(config: RunConfig) -> None:
    """Build teacher and student once.

    Raises:
        InputError: an unknown model, weights that do not fit, a width that cannot be reached.
    """
    natural = natural_width(config.student)
    teacher = load_teacher(config.teacher, config.runtime.device)
    width = config.mapping.width or natural
    if width > teacher.backbone.width:
        raise InputError(
            f"the student's embedding would be {width} wide, but {config.teacher.model} has only "
            f"{teacher.backbone.width} dimensions to compress: set mapping.width to at most that."
        )
