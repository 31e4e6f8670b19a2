"""Stage 4: a student, trained against the cached latents."""

import io
import os
import time
from collections.abc import Callable
from typing import Any

import polars as pl
from safetensors.torch import save
from torch import Tensor

from flows.config.run import RunConfig
from flows.data.caches import Extracted
from flows.data.features import evaluation_rows
from flows.data.loader import batches_from
from flows.data.rendering import view_source
from flows.provenance import provenance
from flows.reporting.base import reporter
from flows.stages.cache_checks import truth_test
from flows.stages.checkpoints import continue_from_newest, drop_checkpoints, save_checkpoint
from flows.stages.ensure import exclusive, find_whole
from flows.stages.following import Follower, board
from flows.stages.ids import artifact_id, student_spec
from flows.stages.map import mean_target, through_mapping
from flows.stages.models import HISTORY, OBJECTIVE, TENSORS, start_student
from flows.stages.results import Indexed, Mapped, Trained
from flows.stages.selection import Validation, learnt_from
from flows.stages.training_data import class_numbers, step_dataset
from storage.artifacts import read_record, write_artifact
from storage.cache import FeatureCache
from storage.root import Root
from tintem_core.distributed import from_main, is_main, world_size
from tintem_core.models.device import choose_device
from tintem_core.training.loop import train as run_training


def train(
    config: RunConfig, root: Root, indexed: Indexed, extracted: Extracted, mapped: Mapped
) -> Trained:
    """Make sure that the student exists; continue from its last checkpoint if there is one.

    Under ``torchrun`` every process calls this; the main one alone writes.

    Raises:
        VerificationError: if a teacher no longer gives what its cache holds.
        InputError: if the student cannot be built, or its objective lacks labels or tokens.
    """
    student_id, spec = _identity(config, indexed, extracted, mapped)
    record = from_main(find_whole(root, "students", student_id) if is_main() else None)
    if record is None:
        parent = _parent(config, root, student_id, indexed, extracted, mapped)
        with exclusive(root, f"students/{student_id}") as confirm:
            found = find_whole(root, "students", student_id, reporter().note) if is_main() else None
            record = from_main(found)
            if record is None:
                record = _train(
                    config, root, student_id, spec, indexed, extracted, mapped, parent, confirm
                )
                return Trained(id=student_id, record=record, reused=False)
    reporter().note(f"student {student_id}: reused")
    return Trained(id=student_id, record=record, reused=True)


def find_trained(
    config: RunConfig, root: Root, indexed: Indexed, extracted: Extracted, mapped: Mapped
) -> Trained | None:
    """Return the student if it is finished."""
    student_id, _ = _identity(config, indexed, extracted, mapped)
    record = find_whole(root, "students", student_id)
    return None if record is None else Trained(id=student_id, record=record, reused=True)


def _identity(
    config: RunConfig, indexed: Indexed, extracted: Extracted, mapped: Mapped
) -> tuple[str, dict[str, object]]:
    """Return the student's id and spec."""
    spec = student_spec(config, extracted, indexed, mapped.id)
    return artifact_id(config, spec), spec


def _parent(
    config: RunConfig,
    root: Root,
    student_id: str,
    indexed: Indexed,
    extracted: Extracted,
    mapped: Mapped,
) -> Trained | None:
    """Make sure that the shorter training exists that this one extends, if it extends one."""
    if config.training.extends is None:
        return None
    shorter = {"training": config.training.before_extension()}
    parent = train(config.model_copy(update=shorter), root, indexed, extracted, mapped)
    reporter().note(
        f"student {student_id} extends {parent.id} from {config.training.extends} to "
        f"{config.training.epochs} epochs, with a learning-rate schedule of its own"
    )
    return parent


def _train(
    config: RunConfig,
    root: Root,
    student_id: str,
    spec: dict[str, object],
    indexed: Indexed,
    extracted: Extracted,
    mapped: Mapped,
    parent: Trained | None,
    confirm: Callable[[], None],
) -> dict[str, Any]:
    """Train from the newest checkpoint on; return the record.

    Args:
        confirm: see :func:`exclusive`.
    """

    if is_main():
        _truth_test(config, root, indexed, extracted, mapped)
    validation = None
    if config.training.select == "best":
        validation = Validation(config, root, indexed.data, extracted)
    # From here on, photos that are held out do not exist.
    indexed = learnt_from(config, indexed)
    classes = class_numbers(indexed)[1] if config.training.kind.needs_labels else ()
    device = choose_device(config.runtime.device)
    dataset = step_dataset(config, root, indexed, extracted)
    keys = indexed.data.keys("train")
    known = evaluation_rows(root, extracted, config.data.name, keys)
    run = start_student(
        config,
        root,
        mapped,
        parent,
        device,
        dataset.steps_per_epoch,
        len(classes),
        mean_target(config, root, mapped, known),
    )
    total = config.training.epochs * dataset.steps_per_epoch
    continue_from_newest(root, student_id, run, total)
    started, resumed_at = time.monotonic(), run.step
    with (
        reporter().track(f"Train {config.student.name}", total, "steps") as advance,
        board(config, root, student_id, run.step) as writer,
    ):
        advance(run.step)
        follower = Follower(run, total, dataset.batch_images, advance, writer)

        def save_step(step: int, checkpoint: bytes) -> None:
            confirm()
            follower.flush()
            save_checkpoint(root, student_id, step, total, checkpoint)

        run_training(
            run,
            batches_from(dataset, run.step, total, loader_workers(config, device)),
            config.training,
            dataset.steps_per_epoch,
            save=save_step,
            save_every_s=config.runtime.checkpoint_seconds,
            compiled=config.runtime.compile,
            on_step=follower.step,
            validate=None if validation is None else follower.validating(validation),
        )
    if is_main():
        student, objective = run.result.student, run.result.objective
        record = {
            "spec": spec,
            "name": config.student.name,
            "dataset": config.data.name,
            "objective": config.training.objective,
            "classes": list(classes),
            "epochs": config.training.epochs,
            "extends": None if parent is None else parent.id,
            "steps": total,
            "resumed_at_step": resumed_at,
            "processes": world_size(),
            "pieces_per_batch": run.pieces,
            "parameters": sum(p.numel() for p in student.parameters()),
            "projection": student.has_projection,
            "metrics": {"final_loss": run.history[-1]["loss"]},
            "seconds": round(time.monotonic() - started, 2),
            "provenance": provenance(),
        }
        if validation is not None:
            assert run.best is not None
            record["selected"] = {
                "epoch": run.best.epoch,
                "score": run.best.score,
                "by": validation.by,
                "validation_photos": validation.photos,
            }
        files = {TENSORS: _packed(student.state_dict()), HISTORY: _table(run.history)}
        if trained := objective.trained_state():
            files[OBJECTIVE] = _packed(trained)
        confirm()
        write_artifact(root, "students", student_id, files, record)
        drop_checkpoints(root, student_id)
    stored: dict[str, Any] = from_main(read_record(root, "students", student_id))
    return stored


def _truth_test(
    config: RunConfig, root: Root, indexed: Indexed, extracted: Extracted, mapped: Mapped
) -> None:
    source = view_source(config, indexed.data, "train")
    caches = [extracted.training_cache, *(other.training_cache for other in extracted.others)]
    for teacher, cache in zip(config.teachers, caches, strict=True):
        opened = FeatureCache.open(root, cache)
        truth_test(config, opened, source, config.training.seed, teacher)
    if extracted.mapped_tokens:
        opened = FeatureCache.open(root, extracted.mapped_tokens[0])
        through = through_mapping(config, root, mapped.id)
        truth_test(config, opened, source, config.training.seed, through=through)


def loader_workers(config: RunConfig, device: str) -> int:
    """Return how many processes prepare batches for each one that trains; 0: it does so itself."""
    if config.runtime.loader_workers is not None:
        return config.runtime.loader_workers
    if device == "cpu":
        return 0
    return max(1, (os.cpu_count() or 2) // world_size() - 1)


def _packed(tensors: dict[str, Tensor]) -> bytes:
    return save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})


def _table(rows: list[dict[str, Any]]) -> bytes:
    table = io.BytesIO()
    # A column of few values may begin with none for longer than polars looks.
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(table)
    return table.getvalue()
