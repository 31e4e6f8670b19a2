"""Teachers and students of a run, from files and artifacts."""

import io
from functools import lru_cache

import polars as pl
from safetensors.torch import load
from torch import Tensor

from flows.config.run import RunConfig
from flows.data.latents import KnownTeacher, open_latents
from flows.data.weights import initial_weights, read_source, read_tensors, teacher_files
from flows.reporting.base import reporter
from flows.stages.map import joint_start, load_mapping
from flows.stages.results import Mapped, Trained
from storage.artifacts import read_file
from storage.root import Root
from tintem_core.models.config import TeacherConfig
from tintem_core.models.device import choose_device, place
from tintem_core.models.embedder import Embedder
from tintem_core.models.student import Student, build_student, warm_start
from tintem_core.models.teacher import Teacher, build_teacher
from tintem_core.objectives.base import Objective, Parts
from tintem_core.objectives.registry import build_objective
from tintem_core.training.state import TrainingState, start_training

TENSORS, OBJECTIVE, HISTORY = "student.safetensors", "objective.safetensors", "history.parquet"


def new_objective(
    config: RunConfig, root: Root, mapped: Mapped, classes: int, centre: Tensor | None = None
) -> Objective:
    """Build what a student is trained with.

    Args:
        classes: how many labels there are to learn, 0 where none are.
        centre: see :func:`mean_target`; only a training needs it.
    """
    mapping = load_mapping(config, root, mapped)
    joint = config.mapping if config.mapping.fit == "joint" else None
    parts = Parts(
        mapping if joint is None else joint_start(config, mapping),
        config.training,
        joint,
        classes,
        centre,
        tokens_are_mapped=config.cache.keep_mapped,
    )
    return build_objective(config.training.objective, parts, config.training.seed)


def start_student(
    config: RunConfig,
    root: Root,
    mapped: Mapped,
    parent: Trained | None,
    device: str,
    steps_per_epoch: int,
    classes: int,
    centre: Tensor | None = None,
) -> TrainingState:
    """Prepare a training at its first step, or at the end of the one that it extends.

    Args:
        parent: the shorter training that this one extends, if it extends one.
        classes, centre: see :func:`new_objective`.

    Raises:
        InputError: if the student or its optimiser cannot be built.
    """
    student = build_student(
        config.student,
        mapped.record["spec"]["width"],
        config.training.seed,
        tokens=config.training.needs_tokens,
    )
    objective = new_objective(config, root, mapped, classes, centre)
    if parent is not None:
        student = load_student(config, root, mapped, parent)
        objective = load_objective(config, root, mapped, parent, centre)
        objective.requires_grad_(bool(objective.trained_state()))
    elif config.student.weights is not None:
        path = initial_weights(config)
        taken = warm_start(
            student, read_tensors(path), str(path), partial=config.student.partial_weights
        )
        reporter().note(f"{config.student.name} starts from {taken} tensors of {path.name}")
    run = start_training(
        place(student, device),
        objective,
        config.training,
        steps_per_epoch,
        first_epoch=config.training.extends or 0,
    )
    if parent is not None:
        run.history = load_history(root, parent).to_dicts()
    return run


def load_student(config: RunConfig, root: Root, mapped: Mapped, trained: Trained) -> Student:
    """Load a finished student on the CPU, in eval mode."""
    student = build_student(
        config.student.model_copy(update={"pretrained": False}),
        mapped.record["spec"]["width"],
        config.training.seed,
        tokens=config.training.needs_tokens,
    )
    student.load_state_dict(load(read_file(root, "students", trained.id, TENSORS)))
    return student.eval()


def load_embedder(config: RunConfig, root: Root, mapped: Mapped, trained: Trained) -> Embedder:
    """Load a finished student as what embeds photos, on the device of the run."""
    student = load_student(config, root, mapped, trained)
    return Embedder(student, config.student.image_size, device=choose_device(config.runtime.device))


def load_token_embedder(
    config: RunConfig, root: Root, mapped: Mapped, trained: Trained
) -> Embedder:
    """Load the backbone of a finished student, whose patch tokens are its own."""
    backbone = load_student(config, root, mapped, trained).backbone
    device = choose_device(config.runtime.device)
    return Embedder(backbone, config.student.image_size, device=device)


def load_objective(
    config: RunConfig, root: Root, mapped: Mapped, trained: Trained, centre: Tensor | None = None
) -> Objective:
    """Load what a finished student was trained with, on the CPU, in eval mode."""
    objective = new_objective(config, root, mapped, len(trained.record["classes"]), centre)
    if OBJECTIVE in trained.record["files"]:
        objective.load_trained(load(read_file(root, "students", trained.id, OBJECTIVE)))
    return objective.eval().requires_grad_(False)


def load_history(root: Root, trained: Trained) -> pl.DataFrame:
    """Return the training curve: epoch, loss, learning_rate; with select 'best', validation."""
    return pl.read_parquet(io.BytesIO(read_file(root, "students", trained.id, HISTORY)))


def known_teacher(config: TeacherConfig, device: str) -> KnownTeacher:
    """Return what tells who a teacher is, and how wide: the model, or a file of its embeddings.

    Raises:
        InputError: see :func:`load_teacher` and :func:`open_latents`.
    """
    return load_teacher(config, device) if config.latents is None else open_latents(config)


def load_teacher(config: TeacherConfig, device: str) -> Teacher:
    """Load the run's teacher; what has changed on disk is loaded anew.

    Raises:
        InputError: if a file is missing or does not fit, or the model cannot be built.
    """
    changed = tuple(path.stat().st_mtime_ns for path in teacher_files(config))
    return _load(config, choose_device(device), changed)


@lru_cache(maxsize=4)
def _load(config: TeacherConfig, device: str, _changed: tuple[int, ...]) -> Teacher:
    return build_teacher(config, read_source(config), device)
