"""What a run can do whose teacher is a file of latents: one embedding per photo."""

from typing import Any

from tintem_core.models.config import TeacherConfig

_FILE = "teacher.latents is a file of one embedding per photo, of its evaluation view"


def with_latents_defaults(given: Any) -> Any:
    """Leave out what needs a teacher that can be asked, where the settings do not speak of it."""
    if not isinstance(given, dict):
        return given
    others = given.get("other_teachers")
    teachers = [given.get("teacher"), *(others if isinstance(others, list | tuple) else ())]
    if not any(map(_has_latents, teachers)):
        return given
    training = given.get("training", {})
    if isinstance(training, dict):
        given = {**given, "training": {"support": 0, **training}}
    return {"views": {"count": 1, "recipe": {"name": "eval"}}, **given}


def refuse_beside_latents(views: str, *, support: bool, tokens: bool, corrupted: bool) -> None:
    """Refuse what such a file does not have.

    Args:
        views: recipe of the training views.
        support: whether support images are learned from.
        tokens: whether patch tokens are cached.
        corrupted: whether the evaluation embeds corrupted photos.

    Raises:
        ValueError: with the cure.
    """
    if views != "eval":
        raise ValueError(f"{_FILE}, whatever views says: leave views out")
    if support:
        raise ValueError(
            f"{_FILE}, and has none of support images: leave out training.support, or set it to 0"
        )
    if tokens:
        raise ValueError(f"{_FILE}, without patch tokens: set cache.tokens to false")
    if corrupted:
        raise ValueError(f"{_FILE}, none of corrupted ones: set evaluation.corrupted_photos to 0")


def _has_latents(teacher: Any) -> bool:
    if isinstance(teacher, dict):
        return bool(teacher.get("latents"))
    return isinstance(teacher, TeacherConfig) and teacher.latents is not None
