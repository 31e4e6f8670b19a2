"""Stage 6: the student as checked files that others load, with its card; beside them its report."""

from functools import partial
from importlib.resources import files as package_files
from typing import Any

import numpy as np
import torch

from flows.config.run import RunConfig
from flows.data.rendering import eval_source, render, view_source
from flows.provenance import provenance
from flows.reporting.base import reporter
from flows.reporting.page import card
from flows.reporting.summary import summary_rows
from flows.stages.ensure import ensure_artifact
from flows.stages.ids import artifact_id, export_spec
from flows.stages.licences import base_model, licences, require_license
from flows.stages.models import known_teacher, load_objective, load_student
from flows.stages.outlier_bank import outlier_bank
from flows.stages.packaging import loader_cosines, package, vectors
from flows.stages.reduced import Judge
from flows.stages.report import write_report
from flows.stages.results import REPORT, Exported, Finished, Indexed, Trained
from flows.stages.selection import learnt_from
from storage.artifacts import read_record
from tintem_core.export.formats import Embed, Subject
from tintem_core.export.latency import median_ms
from tintem_core.export.mapping import mapping_to_onnx
from tintem_core.models.embedder import to_float
from tintem_core.models.student import Student
from tintem_core.models.teacher import Teacher
from tintem_core.views import Pixels

MODEL, MAPPING, VECTORS, VERIFY = "student.onnx", "mapping.onnx", "vectors.npz", "verify.py"
_CALIBRATION_PHOTOS = 128


def export(run: Finished) -> Exported:
    """Make sure that the student is published; only a model that passed its check ever is.

    Beside it lies its report, which is no part of it: it can be made again at any time.

    Raises:
        VerificationError: if ONNX Runtime disagrees with torch on any of the photos.
    """
    config, root = run.config, run.root
    spec = export_spec(config, run.trained.id, run.evaluated.id)
    export_id = artifact_id(config, spec)
    location = f"{root.url}/exports/{export_id}"
    record, reused = ensure_artifact(root, "exports", export_id, lambda: _export(run, spec))
    if not root.exists(f"exports/{export_id}/{REPORT}"):
        # The record as it was stored: with its id and its files.
        stored = read_record(root, "exports", export_id)
        assert stored is not None
        write_report(run, stored)
    return Exported(id=export_id, record=record, location=location, reused=reused)


def _export(run: Finished, spec: dict[str, object]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Convert, check and time the student; return the export's files and its record."""
    config, root, indexed = run.config, run.root, run.indexed
    mapped, trained, evaluated = run.mapped, run.trained, run.evaluated
    teacher = known_teacher(config.teacher, "cpu")
    require_license(config, teacher)
    student = load_student(config, root, mapped, trained)
    source = eval_source(config, indexed.data, None)
    rows = range(min(config.export.images, len(source.keys)))
    size = config.student.image_size
    judge = Judge(run, student)
    bank, told = outlier_bank(config, judge) if "ood" in config.export.formats else (None, None)
    calibration = partial(_calibration, config, indexed)
    tokens = config.training.needs_tokens
    subject = Subject(student, size, _metadata(config, trained), calibration, bank, tokens)
    with reporter().track("Export", len(config.export.formats) + 1, "steps") as advance:
        pixels = render(source, rows, size, config.runtime.decode_threads)
        made = package(config, subject, pixels, judge, advance)
        embed = made.opened["onnx"]
        model = teacher if isinstance(teacher, Teacher) else None
        latency = _latencies(config, model, student, embed, pixels)
        advance(1)
    normalisation = student.backbone.normalisation
    width = mapped.record["spec"]["width"]
    record = {
        "spec": spec,
        "student": trained.id,
        "model": {
            "file": MODEL,
            "bytes": made.formats["onnx"]["bytes"],
            "input": f"pixels: float32, RGB, 0..1, (batch, 3, {size}, {size})",
            "output": f"embedding: float32, (batch, {width})",
        },
        "image_size": size,
        "bits": config.data.bits,
        "width": width,
        "normalisation": normalisation,
        "teacher_parameters": None if model is None else model.parameters,
        "teacher_digest": teacher.digest,
        "data_digest": indexed.data.digest(),
        "base_model": base_model(teacher),
        "licences": licences(config, teacher),
        "verification": made.formats["onnx"],
        "formats": made.formats,
        "left_out": made.left_out,
        "reduced": made.reduced,
        **({} if told is None else {"ood": told}),
        "loaders": loader_cosines(source, rows, size, embed),
        "latency_ms": latency,
        "metrics": evaluated.record["metrics"],
        "provenance": provenance(),
    }
    mapping = load_objective(config, root, mapped, trained).mapping
    records = (mapped.record, trained.record, evaluated.record, record)
    table = summary_rows(config, learnt_from(config, indexed).photos(), *records)
    files = {
        **made.files,
        **({} if mapping is None else {MAPPING: mapping_to_onnx(mapping)}),
        VECTORS: vectors(embed, pixels),
        VERIFY: package_files("tintem_pixels").joinpath(VERIFY).read_bytes(),
        "card.md": card(config, table, record, has_mapping=mapping is not None).encode(),
    }
    return files, record


def _calibration(config: RunConfig, indexed: Indexed) -> Pixels:
    """Return training views, one of each photo."""
    source = view_source(config, indexed.data, "train")
    photos = range(min(_CALIBRATION_PHOTOS, len(source.keys)))
    return render(source, photos, config.student.image_size, config.runtime.decode_threads)


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
