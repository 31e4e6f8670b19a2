"""Stage 4: a student, trained against the cached latents."""

import io
import json
import os
import time

import polars as pl
from safetensors.torch import load, save

from flows.config import RunConfig
from flows.provenance import provenance
from flows.reporting import reporter
from flows.stages.batches import StepDataset, batches_from
from flows.stages.extract import view_source
from flows.stages.fit import load_mapping
from flows.stages.results import Extracted, Indexed, Mapped, Trained
from flows.stages.teacher import choose_device
from flows.stages.truth import truth_test
from storage.artifact import read_file, read_record, write_artifact
from storage.cache import FeatureCache
from storage.identity import make_id
from storage.root import Root
from tintem_core.backbones import place
from tintem_core.errors import InputError, TintemError
from tintem_core.students import Student, build_student
from tintem_core.training import Run, start_run
from tintem_core.training import train as run_training

_TENSORS = "student.safetensors"
_PROGRESS = "progress.json"
_KEPT_CHECKPOINTS = 2


def student_spec(
    config: RunConfig, indexed: Indexed, extracted: Extracted, mapped: Mapped
) -> dict[str, object]:
    """Return everything that determines a student's weights."""
    return {
        "cache": extracted.views,
        "images": indexed.data.digest("train"),
        "mapping": mapped.id,
        "student": config.student.model_dump(),
        "training": config.training.identity(),
    }


def train(
    config: RunConfig, root: Root, indexed: Indexed, extracted: Extracted, mapped: Mapped
) -> Trained:
    """Make sure that the student exists; continue from its last checkpoint if there is one.

    Raises:
        VerificationError: if the teacher no longer gives what the cache holds.
        InputError: if the student cannot be built.
    """
    spec = student_spec(config, indexed, extracted, mapped)
    student_id = make_id(f"{config.student.model}-{config.data.name}", spec)
    record = read_record(root, "students", student_id)
    if record is not None:
        reporter().note(f"student {student_id}: reused")
        return Trained(student_id, record, reused=True)

    keys = indexed.data.keys("train")
    source = view_source(config, indexed.data, "train")
    cache = FeatureCache.open(root, extracted.views)
    latents = cache.reader(keys)
    truth_test(config, cache, source, config.training.seed)
    mapping = load_mapping(config, root, mapped)
    device = choose_device(config.runtime.device)
    student = build_student(config.student, mapped.record["spec"]["width"], config.training.seed)
    place(student, device)
    dataset = StepDataset(
        source,
        latents,
        config.student.image_size,
        config.training.batch_size,
        config.training.seed,
        int(config.runtime.memory_gb * 1e9),
    )
    run = _start(config, root, student_id, student, dataset.steps_per_epoch)
    total = config.training.epochs * dataset.steps_per_epoch
    workers = config.runtime.loader_workers
    if workers is None:
        workers = 0 if device == "cpu" else max(1, (os.cpu_count() or 2) - 1)
    started, first_step = time.monotonic(), run.step
    with reporter().track(f"Train {config.student.model}", total, "steps") as advance:
        advance(run.step)
        run_training(
            run,
            mapping.to(device),
            batches_from(dataset, run.step, total, workers),
            config.training,
            dataset.steps_per_epoch,
            save=lambda step, data: _save_checkpoint(root, student_id, step, total, data),
            save_every_s=config.runtime.checkpoint_seconds,
            on_step=lambda _step, _loss: advance(1),
        )
    record = {
        "spec": spec,
        "name": config.student.model,
        "dataset": config.data.name,
        "epochs": config.training.epochs,
        "steps": total,
        "resumed_at_step": first_step,
        "parameters": sum(p.numel() for p in student.parameters()),
        "projection": student.has_projection,
        "metrics": {"final_loss": run.history[-1]["loss"]},
        "seconds": round(time.monotonic() - started, 2),
        "provenance": provenance(),
    }
    history = io.BytesIO()
    pl.DataFrame(run.history).write_parquet(history)
    weights = {k: v.cpu().contiguous() for k, v in student.state_dict().items()}
    files = {_TENSORS: save(weights), "history.parquet": history.getvalue()}
    write_artifact(root, "students", student_id, files, record)
    for leftover in (_checkpoint_folder(student_id), f"students/{student_id}/{_PROGRESS}"):
        root.delete(leftover)
    return Trained(student_id, record, reused=False)


def load_student(config: RunConfig, root: Root, mapped: Mapped, trained: Trained) -> Student:
    """Load a finished student on the CPU, in eval mode."""
    student = build_student(
        config.student.model_copy(update={"pretrained": False}),
        mapped.record["spec"]["width"],
        config.training.seed,
    )
    student.load_state_dict(load(read_file(root, "students", trained.id, _TENSORS)))
    return student.eval()


def load_history(root: Root, trained: Trained) -> pl.DataFrame:
    """Return the training curve: epoch, loss, learning_rate."""
    data = read_file(root, "students", trained.id, "history.parquet")
    return pl.read_parquet(io.BytesIO(data))


def _start(
    config: RunConfig, root: Root, student_id: str, student: Student, steps_per_epoch: int
) -> Run:
    try:
        run = start_run(student, config.training, steps_per_epoch)
    except (ValueError, AssertionError) as error:
        raise InputError(
            f"training.optimizer: timm knows no optimiser '{config.training.optimizer}'."
        ) from error
    for path in sorted(root.list(_checkpoint_folder(student_id)), reverse=True):
        try:
            run.restore(root.read(path))
        except TintemError as error:
            reporter().note(f"{path} is not usable ({error}): trying an older one")
            continue
        reporter().note(
            f"student {student_id}: continuing at step {run.step:,} of "
            f"{config.training.epochs * steps_per_epoch:,}"
        )
        break
    return run


def _checkpoint_folder(student_id: str) -> str:
    return f"students/{student_id}/checkpoints"


def _save_checkpoint(root: Root, student_id: str, step: int, total: int, data: bytes) -> None:
    folder = _checkpoint_folder(student_id)
    root.write(f"{folder}/step-{step:09d}.pt", data)
    progress = json.dumps({"step": step, "total": total}).encode()
    root.write(f"students/{student_id}/{_PROGRESS}", progress)
    for old in sorted(root.list(folder))[:-_KEPT_CHECKPOINTS]:
        root.delete(old)
