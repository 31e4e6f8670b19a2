"""What may be done with a student, as far as its teacher, its photos and its maker say so."""

from typing import Any

from flows.config.run import RunConfig
from flows.data.latents import KnownTeacher
from tintem_core.errors import InputError
from tintem_core.models.backbone import Backbone
from tintem_core.models.teacher import Teacher


def licences(config: RunConfig, teacher: KnownTeacher) -> dict[str, str | None]:
    """Return the licences of ``teacher``, ``data`` and ``student``; None where nobody gave one."""
    settings = config.export
    known = (_published(teacher) or {}).get("license")
    return {
        "teacher": settings.teacher_license or known,
        "data": settings.data_license,
        "student": settings.license,
    }


def require_license(config: RunConfig, teacher: KnownTeacher) -> None:
    """Raises InputError where ``export.license_policy`` forbids to publish a teacher's student."""
    allowed, found = config.export.license_policy, licences(config, teacher)["teacher"]
    if allowed and found not in allowed:
        said = "is not known" if found is None else f"is {found}"
        raise InputError(
            f"the licence of {config.teacher.name} {said}, and export.license_policy allows "
            f"{', '.join(allowed)} alone: give export.teacher_license if you know it, or take "
            "another teacher."
        )


def base_model(teacher: KnownTeacher) -> str | None:
    """Return the teacher's name on the Hugging Face hub; None for weights from a file."""
    cfg = _published(teacher)
    if cfg is None or not (place := cfg.get("hf_hub_id")):
        return None
    name = f"{cfg['architecture']}.{cfg['tag']}" if cfg.get("tag") else cfg["architecture"]
    return f"{place}{name}" if place.endswith("/") else str(place)


def _published(teacher: KnownTeacher) -> dict[str, Any] | None:
    """Return what timm says of its own weights; a file may hold weights of anyone's making."""
    if not isinstance(teacher, Teacher) or not isinstance(teacher.backbone, Backbone):
        return None
    if teacher.config.weights != "pretrained":
        return None
    found: dict[str, Any] = teacher.backbone.model.pretrained_cfg
    return found
