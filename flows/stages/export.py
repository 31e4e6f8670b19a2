"""Stage 6: the student as a checked ONNX file, with its card and report."""

from typing import Any

import numpy as np
import torch

from flows.config.run import RunConfig
from flows.data.rendering import eval_source, render
from flows.provenance import provenance
from flows.reporting.base import reporter
from flows.reporting.page import card, report_page
from flows.reporting.summary import summary_rows
from flows.stages.ensure import ensure_artifact
from flows.stages.ids import artifact_id, export_spec
from flows.stages.models import load_history, load_student, load_teacher
from flows.stages.results import Evaluated, Exported, Indexed, Mapped, Trained
from flows.stages.selection import learnt_from
from storage.artifacts import read_file
from storage.root import Root
from tintem_core.export.formats import Embed, export_format
from tintem_core.export.latency import median_ms
from tintem_core.export.parity import Verification, verify
from tintem_core.models.embedder import to_float
from tintem_core.models.student import Student
from tintem_core.models.teacher import Teacher
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
    spec = export_spec(config, trained.id, evaluated.id)
    export_id = artifact_id(config, spec)
    location = f"{root.url}/exports/{export_id}"
    record, reused = ensure_artifact(
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
    formats = {name: export_format(name) for name in config.export.formats}
    with reporter().track("Export", len(formats) + 1, "steps") as advance:
        pixels = render(source, range(photos), size, config.runtime.decode_threads)
        models, checks = {}, {}
        for name, form in formats.items():
            models[name] = form.to_bytes(student, size, _metadata(config, trained))
            checks[name] = verify(
                form.open(models[name]),
                student,
                pixels,
                minimum_cosine=config.export.minimum_cosine,
            )
            advance(1)
        teacher = None
        if config.teacher.latents is None:
            teacher = load_teacher(config.teacher, "cpu")
        latency = _latencies(config, teacher, student, formats["onnx"].open(models["onnx"]), pixels)
        advance(1)
    record = {
        "spec": spec,
        "student": trained.id,
        "model": {
            "file": MODEL,
            "bytes": len(models["onnx"]),
            "input": f"pixels: float32, RGB, 0..1, (batch, 3, {size}, {size})",
            "output": f"embedding: float32, (batch, {mapped.record['spec']['width']})",
        },
        "teacher_parameters": None if teacher is None else teacher.parameters,
        "verification": _as_record(checks["onnx"]),
        "formats": {
            name: {"file": form.file, "bytes": len(models[name]), **_as_record(checks[name])}
            for name, form in formats.items()
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
        **{form.file: models[name] for name, form in formats.items()},
        "card.md": card(config, rows, record).encode(),
        "report.html": page.encode(),
    }
    return files, record


def _as_record(checked: Verification) -> dict[str, Any]:
    return {
        "photos": checked.images,
        "batch_sizes": checked.batch_sizes,
        "smallest_cosine": checked.smallest_cosine,
        "largest_difference": checked.largest_difference,
    }


def _metadata(config: RunConfig, trained: Trained) -> dict[str, str]:
    told = {
        "tintem.student": trained.id,
        "tintem.teacher": config.teacher.name,
        "tintem.image_size": str(config.student.image_size),
    }
    if config.data.bits is not None:
        told["tintem.bits"] = str(config.data.bits)
    return told


def _latencies(
    config: RunConfig, teacher: Teacher | None, student: Student, onnx: Embed, pixels: Pixels
) -> dict[str, float | None]:
    """Time one photo on the CPU, where the student is meant to run, each model at its own size."""
    size = config.teacher.image_size
    large = np.zeros((1, size, size, 3), np.uint8)
    small = pixels[:1]

    def run_student() -> None:
        with torch.inference_mode():
            student(to_float(torch.from_numpy(small), torch.device("cpu")))

    return {
        "teacher": None if teacher is None else median_ms(lambda: teacher.embed(large)),
        "student": median_ms(run_student),
        "student_onnx": median_ms(lambda: onnx(small)),
    }
