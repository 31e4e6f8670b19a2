"""Stage 6: the student as a checked ONNX file, with its card and report."""

from typing import Any

import numpy as np
import torch

from flows.config import RunConfig
from flows.provenance import provenance
from flows.report import card, report_page
from flows.reporting import reporter
from flows.stages.alone import made_once
from flows.stages.extract import eval_source
from flows.stages.held_out import learnt_from
from flows.stages.results import Evaluated, Exported, Indexed, Mapped, Trained
from flows.stages.students import load_history, load_student
from flows.stages.teacher import load_teacher
from flows.summary import summary_rows
from storage.artifacts import read_file
from storage.identity import make_id
from storage.root import Root
from tintem_core.export import run_onnx, session, to_onnx, verify_onnx
from tintem_core.latency import median_ms
from tintem_core.students import Student
from tintem_core.teachers import Teacher, to_float
from tintem_core.views import Pixels

MODEL = "student.onnx"


def export(
    config: RunConfig,
    root: Root,
    indexed: Indexed,
    mapped: Mapped,
    trained: Trained,
    evaluated: Evaluated,
) -> Exported:
    """Make sure that the student is published; only a model that passed its check ever is.

    Raises:
        VerificationError: if ONNX Runtime disagrees with torch on any of the photos.
    """
    spec: dict[str, object] = {
        "student": trained.id,
        "evaluation": evaluated.id,
        "export": config.export.model_dump(),
    }
    export_id = make_id(f"{config.student.model}-{config.data.name}", spec)
    location = f"{root.url}/exports/{export_id}"
    record, reused = made_once(
        root,
        "exports",
        export_id,
        lambda: _export(config, root, spec, indexed, mapped, trained, evaluated),
    )
    return Exported(id=export_id, record=record, location=location, reused=reused)


def _export(
    config: RunConfig,
    root: Root,
    spec: dict[str, object],
    indexed: Indexed,
    mapped: Mapped,
    trained: Trained,
    evaluated: Evaluated,
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Convert, check and time the student; return the export's files and its record."""
    student = load_student(config, root, mapped, trained)
    source = eval_source(config, indexed.data, None)
    photos = min(config.export.images, len(source.keys))
    size = config.student.image_size
    with reporter().track("Export", 3, "steps") as advance:
        model = to_onnx(student, size, _metadata(config, trained))
        advance(1)
        pixels = np.concatenate([source.views(row, range(1), size) for row in range(photos)])
        checked = verify_onnx(model, student, pixels, minimum_cosine=config.export.minimum_cosine)
        advance(1)
        teacher = load_teacher(config.teacher, "cpu")
        latency = _latencies(config, teacher, student, model, pixels)
        advance(1)
    record = {
        "spec": spec,
        "student": trained.id,
        "model": {
            "file": MODEL,
            "bytes": len(model),
            "input": f"pixels: float32, RGB, 0..1, (batch, 3, {size}, {size})",
            "output": f"embedding: float32, (batch, {mapped.record['spec']['width']})",
        },
        "teacher_parameters": teacher.parameters,
        "verification": {
            "photos": checked.images,
            "batch_sizes": checked.batch_sizes,
            "smallest_cosine": checked.smallest_cosine,
            "largest_difference": checked.largest_difference,
        },
        "latency_ms": latency,
        "metrics": evaluated.record["metrics"],
        "provenance": provenance(),
    }
    records = (mapped.record, trained.record, evaluated.record, record)
    rows = summary_rows(config, learnt_from(config, indexed).photos(), *records)
    scores = read_file(root, "evaluations", evaluated.id, "ood_scores.parquet")
    page = report_page(config, rows, record, load_history(root, trained), scores)
    files = {
        MODEL: model,
        "card.md": card(config, rows, record).encode(),
        "report.html": page.encode(),
    }
    return files, record


def _metadata(config: RunConfig, trained: Trained) -> dict[str, str]:
    told = {
        "tintem.student": trained.id,
        "tintem.teacher": config.teacher.model,
        "tintem.image_size": str(config.student.image_size),
    }
    if config.data.bits is not None:
        told["tintem.bits"] = str(config.data.bits)
    return told


def _latencies(
    config: RunConfig, teacher: Teacher, student: Student, model: bytes, pixels: Pixels
) -> dict[str, float]:
    """Time one photo on the CPU, where the student is meant to run, each model at its own size."""
    size = config.teacher.image_size
    large = np.zeros((1, size, size, 3), np.uint8)
    small = pixels[:1]
    opened = session(model)

    def run_student() -> None:
        with torch.inference_mode():
            student(to_float(torch.from_numpy(small), torch.device("cpu")))

    return {
        "teacher": median_ms(lambda: teacher.embed(large)),
        "student": median_ms(run_student),
        "student_onnx": median_ms(lambda: run_onnx(opened, small)),
    }
