"""What sections of a config must agree on, and what an error may not repeat."""

import difflib
from collections.abc import Iterable

from flows.config.run import RunConfig
from flows.config.variants import RetrainedStudent, keeps_mapping, retrained_students
from tintem_core.errors import InputError
from tintem_core.evaluation.metrics import BOUNDS, known_metrics


def closest_first(known: Iterable[str], wanted: str) -> list[str]:
    """Sort names by how much they are like the one that was wanted; last what is no student's."""

    def likeness(name: str) -> tuple[bool, float]:
        ratio = difflib.SequenceMatcher(None, name, wanted).ratio()
        return not name.startswith(("constant/", *(f"{bound}/" for bound in BOUNDS))), ratio

    return sorted(known, key=likeness, reverse=True)


def metrics_of(config: RunConfig) -> list[str]:
    """Return what the evaluation of a run measures."""
    models = [teacher.name for teacher in config.teachers] if config.other_teachers else []
    names = [
        model + (f" ({number + 1})" if models.count(model) > 1 else "")
        for number, model in enumerate(models)
    ]
    ood = [source.name for source in config.evaluation.ood]
    settings = config.evaluation
    return known_metrics(
        config.training.kind.answers,
        ood,
        names,
        settings.probes,
        ood_score=settings.ood_score,
        same_classes=settings.same_classes,
        corrupted=settings.corrupted_photos > 0,
        fine_tuned=settings.fine_tune_epochs > 0,
        masks=settings.masks is not None,
        # A night asks the index of the student in force.
        index=settings.index is not None or "nightly" in config.model_fields_set,
    )


def check(config: RunConfig) -> None:
    """Refuse a nightly section that could only fail in the night, and a password in an address.

    Raises:
        InputError: if students or gates are none that a run can have, or there is a password.
    """
    if config.tracking.has_password:
        raise InputError(
            "tracking.mlflow has a name or a password in it: leave them out, and set the "
            "environment variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    if "nightly" not in config.model_fields_set:
        return
    for student in retrained_students(config):
        _check_mapping(student)
        _check_gates(student)


def _check_mapping(student: RetrainedStudent) -> None:
    nightly, run = student.config.nightly, student.config
    if nightly.warm_start and not keeps_mapping(run):
        raise InputError(
            f"nightly.warm_start: {student.name} fits its mapping while it learns (mapping.fit "
            "joint), so the latest's weights would answer to another one: set warm_start to false."
        )
    if run.cache.keep_mapped and not nightly.keep_mapping:
        raise InputError(
            "nightly.keep_mapping is false, but cache.keep_mapped stores tokens through the "
            "mapping: every night that trains would embed all of them again. Set one of them to "
            "the other's value."
        )


def _check_gates(student: RetrainedStudent) -> None:
    known = metrics_of(student.config)
    for place, gate in enumerate(student.config.nightly.gates):
        if gate.metric not in known:
            raise InputError(
                f"nightly.gates[{place}]: '{gate.metric}' is not measured for {student.name} "
                f"(known, closest first: {', '.join(closest_first(known, gate.metric))})."
            )
