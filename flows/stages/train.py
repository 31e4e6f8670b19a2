"""Stage 4: a student, trained against the cached latents."""

import io
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from flows.config import RunConfig
from flows.provenance import provenance
from flows.reporting import reporter
from flows.stages.batches import PixelStore, StepDataset, batches_from
from flows.stages.checkpoints import continue_from_newest, drop_checkpoints, save_checkpoint
from flows.stages.datasets import Dataset
from flows.stages.extract import view_source
from flows.stages.fit import joint_start, load_mapping, through_mapping
from flows.stages.latents import training_latents, training_tokens
from flows.stages.results import Extracted, Indexed, Mapped, Trained, targets_identity
from flows.stages.teacher import choose_device, read_tensors
from flows.stages.truth import truth_test
from storage.artifact import read_file, read_record, write_artifact
from storage.cache import FeatureCache
from storage.identity import file_digest, make_id
from storage.root import Root
from tintem_core.backbones import place
from tintem_core.distributed import from_main, is_main, rank, world_size
from tintem_core.errors import InputError
from tintem_core.objectives import Objective, build_objective
from tintem_core.students import Student, build_student, warm_start
from tintem_core.training import Run, start_run
from tintem_core.training import train as run_training

_TENSORS, _OBJECTIVE, _HISTORY = "student.safetensors", "objective.safetensors", "history.parquet"


def student_spec(
    config: RunConfig, targets: dict[str, object], data: Dataset, mapping_id: str
) -> dict[str, object]:
    """Return everything that determines a student's weights.

    Args:
        targets: see :func:`targets_identity`.
        data: the images to learn from.
        mapping_id: the mapping.

    Raises:
        InputError: if the file of initial weights is missing.
    """
    student = config.student.model_dump(mode="json")
    if config.student.weights is not None:
        # The bytes count, not the place.
        student["weights"] = file_digest(initial_weights(config))
    return {
        **targets,
        "images": data.digest("train", labels=config.training.objective == "supervised"),
        "mapping": mapping_id,
        "student": student,
        "training": config.training.identity(),
    }


def initial_weights(config: RunConfig) -> Path:
    """Return the file that the student starts from.

    Raises:
        InputError: if there is no such file.
    """
    path = Path(config.student.weights or "")
    if not path.is_file():
        raise InputError(
            f"student.weights: there is no file {path}; give a .safetensors or .pth file, or null."
        )
    return path


def train(
    config: RunConfig, root: Root, indexed: Indexed, extracted: Extracted, mapped: Mapped
) -> Trained:
    """Make sure that the student exists; continue from its last checkpoint if there is one.

    Under ``torchrun`` every process calls this; the main one alone writes.

    Raises:
        VerificationError: if a teacher no longer gives what its cache holds.
        InputError: if the student cannot be built, or its objective lacks labels or tokens.
    """
    targets = targets_identity(extracted.identity(), extracted.mapped_tokens)
    spec = student_spec(config, targets, indexed.data, mapped.id)
    student_id = make_id(f"{config.student.model}-{config.data.name}", spec)
    record = from_main(read_record(root, "students", student_id))
    if record is not None:
        reporter().note(f"student {student_id}: reused")
        return Trained(id=student_id, record=record, reused=True)

    parent = None
    if config.training.extends is not None:
        shorter = {"training": config.training.before_extension()}
        parent = train(config.model_copy(update=shorter), root, indexed, extracted, mapped)
        reporter().note(
            f"student {student_id} extends {parent.id} from {config.training.extends} to "
            f"{config.training.epochs} epochs, with a learning-rate schedule of its own"
        )
    if is_main():
        _truth_test(config, root, indexed, extracted, mapped)
    classes = class_numbers(indexed)[1] if config.training.objective == "supervised" else ()
    device = choose_device(config.runtime.device)
    dataset = _dataset(config, root, indexed, extracted)
    run = _start(config, root, mapped, parent, device, dataset.steps_per_epoch, len(classes))
    total = config.training.epochs * dataset.steps_per_epoch
    continue_from_newest(root, student_id, run, total)
    started, resumed_at = time.monotonic(), run.step
    with reporter().track(f"Train {config.student.model}", total, "steps") as advance:
        advance(run.step)
        run_training(
            run,
            batches_from(dataset, run.step, total, _loader_workers(config, device)),
            config.training,
            dataset.steps_per_epoch,
            save=lambda step, data: save_checkpoint(root, student_id, step, total, data),
            save_every_s=config.runtime.checkpoint_seconds,
            compiled=config.runtime.compile,
            on_step=lambda _step, _loss: advance(1),
        )
    if is_main():
        student, objective = run.result.student, run.result.objective
        record = {
            "spec": spec,
            "name": config.student.model,
            "dataset": config.data.name,
            "objective": config.training.objective,
            "classes": list(classes),
            "epochs": config.training.epochs,
            "extends": None if parent is None else parent.id,
            "steps": total,
            "resumed_at_step": resumed_at,
            "processes": world_size(),
            "parameters": sum(p.numel() for p in student.parameters()),
            "projection": student.has_projection,
            "metrics": {"final_loss": run.history[-1]["loss"]},
            "seconds": round(time.monotonic() - started, 2),
            "provenance": provenance(),
        }
        files = {_TENSORS: _packed(student.state_dict()), _HISTORY: _table(run.history)}
        if trained := objective.trained_state():
            files[_OBJECTIVE] = _packed(trained)
        write_artifact(root, "students", student_id, files, record)
        drop_checkpoints(root, student_id)
    stored = from_main(read_record(root, "students", student_id))
    return Trained(id=student_id, record=stored, reused=False)


def load_student(config: RunConfig, root: Root, mapped: Mapped, trained: Trained) -> Student:
    """Load a finished student on the CPU, in eval mode."""
    student = build_student(
        config.student.model_copy(update={"pretrained": False}),
        mapped.record["spec"]["width"],
        config.training.seed,
        tokens=config.training.needs_tokens,
    )
    student.load_state_dict(load(read_file(root, "students", trained.id, _TENSORS)))
    return student.eval()


def load_objective(config: RunConfig, root: Root, mapped: Mapped, trained: Trained) -> Objective:
    """Load what a finished student was trained with, on the CPU, in eval mode."""
    objective = _objective(config, root, mapped, len(trained.record["classes"]))
    if _OBJECTIVE in trained.record["files"]:
        objective.load_trained(load(read_file(root, "students", trained.id, _OBJECTIVE)))
    return objective.eval().requires_grad_(False)


def load_history(root: Root, trained: Trained) -> pl.DataFrame:
    """Return the training curve: epoch, loss, learning_rate."""
    return pl.read_parquet(io.BytesIO(read_file(root, "students", trained.id, _HISTORY)))


def class_numbers(indexed: Indexed) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the training photos' class numbers and the classes' names.

    Raises:
        InputError: if a training photo has no label.
    """
    labels = indexed.data.labels("train")
    named = [label for label in labels if label is not None]
    if len(named) < len(labels):
        raise InputError(
            f"training.objective 'supervised' needs a label for every training photo, but "
            f"{len(labels) - len(named)} of {len(labels)} photos of {indexed.data.name} have none: "
            "give data.label_column or class folders."
        )
    classes = tuple(sorted(set(named)))
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers[label] for label in named], np.int64), classes


def _truth_test(
    config: RunConfig, root: Root, indexed: Indexed, extracted: Extracted, mapped: Mapped
) -> None:
    source = view_source(config, indexed.data, "train")
    caches = [extracted.views, *(other.views for other in extracted.others)]
    for teacher, cache in zip(config.teachers, caches, strict=True):
        opened = FeatureCache.open(root, cache)
        truth_test(config, opened, source, config.training.seed, teacher)
    if extracted.mapped_tokens is not None:
        opened = FeatureCache.open(root, extracted.mapped_tokens)
        through = through_mapping(config, root, mapped.id)
        truth_test(config, opened, source, config.training.seed, through=through)


def _dataset(config: RunConfig, root: Root, indexed: Indexed, extracted: Extracted) -> StepDataset:
    keys, training = indexed.data.keys("train"), config.training
    pixels = PixelStore(
        view_source(config, indexed.data, "train"),
        config.student.image_size,
        training.views or config.views.count,
        int(config.runtime.memory_gb * 1e9),
    )
    return StepDataset(
        pixels,
        training_latents(root, extracted, keys),
        training.batch_size,
        training.seed,
        tokens=training_tokens(root, extracted, keys) if training.needs_tokens else None,
        labels=class_numbers(indexed)[0] if training.objective == "supervised" else None,
        part=(rank(), world_size()),
    )


def _start(
    config: RunConfig,
    root: Root,
    mapped: Mapped,
    parent: Trained | None,
    device: str,
    steps_per_epoch: int,
    classes: int,
) -> Run:
    """Prepare the training at its first step, or at the end of the one that it extends."""
    student = build_student(
        config.student,
        mapped.record["spec"]["width"],
        config.training.seed,
        tokens=config.training.needs_tokens,
    )
    objective = _objective(config, root, mapped, classes)
    if parent is not None:
        student = load_student(config, root, mapped, parent)
        objective = load_objective(config, root, mapped, parent)
        objective.requires_grad_(bool(objective.trained_state()))
    elif config.student.weights is not None:
        path = initial_weights(config)
        taken = warm_start(
            student, read_tensors(path), str(path), partial=config.student.partial_weights
        )
        reporter().note(f"{config.student.model} starts from {taken} tensors of {path.name}")
    try:
        run = start_run(
            place(student, device),
            objective,
            config.training,
            steps_per_epoch,
            first_epoch=config.training.extends or 0,
        )
    except (ValueError, AssertionError, TypeError) as error:
        options = config.training.optimizer_options
        raise InputError(
            f"training.optimizer: timm knows no optimiser '{config.training.optimizer}'"
            + (f" with the options {options} ({error})." if options else ".")
        ) from error
    if parent is not None:
        run.history = load_history(root, parent).to_dicts()
    return run


def _objective(config: RunConfig, root: Root, mapped: Mapped, classes: int) -> Objective:
    mapping = load_mapping(config, root, mapped)
    joint = config.mapping if config.mapping.fit == "joint" else None
    return build_objective(
        config.training,
        mapping if joint is None else joint_start(config, mapping),
        joint,
        classes=classes,
        seed=config.training.seed,
        tokens_are_mapped=config.cache.keep_mapped,
    )


def _loader_workers(config: RunConfig, device: str) -> int:
    if config.runtime.loader_workers is not None:
        return config.runtime.loader_workers
    if device == "cpu":
        return 0
    return max(1, (os.cpu_count() or 2) // world_size() - 1)


def _packed(tensors: dict[str, Tensor]) -> bytes:
    return save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})


def _table(rows: list[dict[str, Any]]) -> bytes:
    table = io.BytesIO()
    pl.DataFrame(rows).write_parquet(table)
    return table.getvalue()
