"""A finished student as what can come into force, and the step of bringing it there."""

from flows.reporting.base import reporter
from flows.retraining.changes import ModelLine
from flows.stages.export import MODEL
from flows.stages.pipeline import Pipeline
from storage.artifacts import read_record
from storage.registry import current_version, promote, sync_pointer
from storage.root import Root
from storage.versions import Model, Version


def model_of(line: ModelLine, pipeline: Pipeline, night: str | None) -> Model:
    """Describe a published student so that a device can fetch it and a later night can compare.

    Args:
        night: that promotes it; None: a person does.
    """
    data = pipeline.indexed.data
    exported = pipeline.exported
    stored = read_record(pipeline.root, "exports", exported.id)
    assert stored is not None
    described = stored["model"]
    return Model(
        student=pipeline.trained.id,
        mapping=pipeline.mapped.id,
        evaluation=pipeline.evaluated.id,
        export=exported.id,
        onnx=f"exports/{exported.id}/{MODEL}",
        sha256=stored["files"][MODEL]["sha256"],
        bytes=described["bytes"],
        input=described["input"],
        output=described["output"],
        metrics=pipeline.evaluated.record["metrics"],
        night=night,
        reference={
            "manifest": data.manifest.id,
            "train": len(data.keys("train")),
            "test": len(data.keys("test")),
        },
        settings=line.settings,
    )


def promote_candidate(root: Root, line: str, model: Model, why: str, over: int | None) -> Version:
    """Promote what a night has decided; a second try finds what the first one left.

    Raises:
        LatestChangedError: if another student came into force meanwhile.
        StorageInputError: if the model's file is missing.
    """
    current = current_version(root, line)
    if current is not None and current.number != over and current.model == model:
        sync_pointer(root, line)
        return current
    entry = promote(root, line, model, why, over)
    reporter().note(f"latest {line}: {model.student} (entry {entry.number})")
    return entry
