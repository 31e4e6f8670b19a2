import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from PIL import Image

from flows.config.load import parse_config
from flows.config.run import RunConfig
from flows.reporting.base import reporting_to
from flows.stages.pipeline import Pipeline
from tests.runs import Notes, write_teacher
from tintem_core.errors import InputError


def configured(settings: dict[str, Any], **changes: Any) -> RunConfig:
    """Return the run with dotted settings changed: teacher__image_size=96."""
    import copy

    changed = copy.deepcopy(settings)
    for key, value in changes.items():
        section = changed
        *path, last = key.split("__")
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return parse_config(changed, "test")


def finish(config: RunConfig, stage: str = "evaluated") -> tuple[Pipeline, Notes]:
    pipeline, notes = Pipeline(config), Notes()
    with reporting_to(notes):
        assert getattr(pipeline, stage)
    return pipeline, notes


def test_a_run_ends_with_a_model_that_a_stranger_can_use(config: RunConfig) -> None:
    pipeline, _ = finish(config, "exported")
    folder = Path(pipeline.exported.location)
    assert {p.name for p in folder.iterdir()} == {
        "student.onnx", "mapping.onnx", "vectors.npz", "verify.py",
        "card.md", "report.html", "record.json",
    }  # fmt: skip
    opened = onnxruntime.InferenceSession(folder / "student.onnx")
    (embedding,) = opened.run(None, {"pixels": np.zeros((3, 3, 32, 32), np.float32)})
    assert embedding.shape == (3, 32)
    assert "Is it faithful?" in (folder / "report.html").read_text()
    assert "test_efficientnet" in (folder / "card.md").read_text()


def test_training_makes_the_student_more_faithful(settings: dict[str, Any]) -> None:
    loss = pl.read_parquet(
        Path(Pipeline(config := configured(settings, training__epochs=8)).root.url)
        / "students" / Pipeline(config).trained.id / "history.parquet"
    )["loss"]  # fmt: skip
    assert len(loss) == 8
    assert loss[-1] < 0.8 * loss[0]


def test_the_same_run_again_recomputes_nothing(config: RunConfig) -> None:
    first, _ = finish(config, "exported")
    before = _contents(Path(config.root))
    second, notes = finish(config, "exported")
    work = {title: units for title, units in notes.work.items() if "Index" not in title}
    assert work == {}
    assert second.exported.id == first.exported.id
    assert all(
        stage.reused
        for stage in (
            second.extracted, second.mapped, second.trained, second.evaluated, second.exported,
        )
    )  # fmt: skip
    after = _contents(Path(config.root))
    assert {k: v for k, v in after.items() if "manifests" not in k} == {
        k: v for k, v in before.items() if "manifests" not in k
    }


def _contents(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p.relative_to(root)): (p.stat().st_mtime_ns, p.stat().st_size)
        for p in root.rglob("*")
        if p.is_file()
    }


def test_another_student_reuses_cache_and_mapping(settings: dict[str, Any]) -> None:
    first, _ = finish(configured(settings))
    second, notes = finish(configured(settings, student__model="test_vit", student__image_size=160))
    assert second.extracted == first.extracted.__class__(
        first.extracted.training_cache, first.extracted.evaluation_caches, reused=True
    )
    assert second.mapped.id == first.mapped.id
    assert second.mapped.reused
    assert not second.trained.reused
    assert not any("Extract" in title for title in notes.work)


@pytest.mark.parametrize(
    "change",
    [
        {"teacher__model": "test_convnext"},
        {"teacher__image_size": 96},
        {"teacher__precision": "bfloat16"},
        {"views__recipe": {"name": "timm"}},
        {"views__recipe": {"min_scale": 0.5}},
        {"views__count": 3},
        {"cache__dtype": "int8"},
        {"cache__tokens": True},
        {"data__name": "others"},
    ],
    ids=str,
)
def test_what_changes_the_features_changes_the_cache(
    settings: dict[str, Any], change: dict[str, Any], tmp_path: Path
) -> None:
    if change.get("teacher__model"):
        import torch
        from safetensors.torch import save_file

        from tintem_core.models.backbone import build_backbone
        from tintem_core.models.config import BackboneConfig

        torch.manual_seed(0)
        model = build_backbone(BackboneConfig(model="test_convnext", image_size=64)).model
        save_file(dict(model.state_dict()), tmp_path / "other.safetensors")
        change = {**change, "teacher__weights": str(tmp_path / "other.safetensors")}
    first = Pipeline(configured(settings)).extracted
    second = Pipeline(configured(settings, **change)).extracted
    assert second.training_cache != first.training_cache
    assert not second.reused


def test_one_changed_weight_changes_every_cache(settings: dict[str, Any], tmp_path: Path) -> None:
    first = Pipeline(configured(settings)).extracted
    write_teacher(tmp_path / "teacher.safetensors", seed=1)
    second = Pipeline(configured(settings)).extracted
    assert second.training_cache != first.training_cache
    assert second.evaluation_caches != first.evaluation_caches
    assert not second.reused


def test_settings_of_speed_and_of_tracking_change_nothing(settings: dict[str, Any]) -> None:
    finish(configured(settings))
    second, _ = finish(
        configured(
            settings,
            runtime__memory_gb=0,
            runtime__decode_threads=1,
            teacher__batch_size=3,
            tracking__mlflow="http://127.0.0.1:9",
        )
    )
    assert second.evaluated.reused


def test_pixels_in_memory_and_pixels_rendered_anew_train_the_same_student(
    settings: dict[str, Any],
) -> None:
    students = []
    for name, memory in (("kept", 2.0), ("anew", 0.0)):
        config = configured(settings, root=f"{settings['root']}-{name}", runtime__memory_gb=memory)
        pipeline = Pipeline(config)
        path = Path(config.root) / "students" / pipeline.trained.id / "student.safetensors"
        students.append(path.read_bytes())
    assert students[0] == students[1]


def test_new_photos_are_embedded_and_old_ones_are_not_embedded_again(
    config: RunConfig, photo_folder: Callable[..., Path]
) -> None:
    before = Pipeline(config)
    assert before.extracted
    photo_folder(12, classes=("disc", "plain"), first=100)
    after, notes = Pipeline(config), Notes()
    with reporting_to(notes):
        assert after.extracted.training_cache == before.extracted.training_cache
    added = len(after.indexed.data.keys()) - len(before.indexed.data.keys())
    assert added == 12
    assert notes.work["Extract shapes (eval)"] == 12


def test_a_moved_photo_changes_nothing(config: RunConfig) -> None:
    first, _ = finish(config)
    folder = Path(config.data.uri)
    moved = sorted((folder / "disc").iterdir())[0]
    shutil.move(moved, moved.with_name("zzz.png"))
    second, _ = finish(config)
    assert second.evaluated.reused
    assert second.evaluated.id == first.evaluated.id


def test_unreadable_photos_are_left_out_and_counted(settings: dict[str, Any]) -> None:
    folder = Path(settings["data"]["uri"]) / "disc"
    whole = sorted(folder.iterdir())[0].read_bytes()
    (folder / "torn.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no photo")
    pipeline, notes = finish(configured(settings, data__max_unreadable_share=0.1))
    assert len(pipeline.indexed.data.keys()) == 48
    assert any("2 of 50 photos" in note for note in notes.notes)


def test_a_photo_that_changed_after_indexing_is_never_stored_under_its_old_key(
    config: RunConfig,
) -> None:
    from tintem_core.errors import InputError

    pipeline = Pipeline(config)
    assert pipeline.indexed
    photos = sorted(Path(config.data.uri).rglob("*.png"))
    photos[0].write_bytes(photos[1].read_bytes())
    with pytest.raises(InputError, match=f"{photos[0].name} has changed since it was indexed"):
        assert pipeline.extracted


def test_photos_without_labels_need_no_class_folders(
    settings: dict[str, Any], photo_folder: Callable[..., Path]
) -> None:
    flat = photo_folder(40, name="flat")
    pipeline, _ = finish(configured(settings, data__uri=str(flat)))
    names = {row["name"] for row in pipeline.evaluated.record["rows"]}
    assert "pairwise_pearson" in names
    assert not any(name == "knn" for name in names)


def test_evaluation_never_sees_a_training_photo(settings: dict[str, Any]) -> None:
    pipeline = Pipeline(configured(settings))
    data = pipeline.indexed.data
    assert not set(data.keys("train")) & set(data.keys("test"))
    assert set(data.keys("train")) | set(data.keys("test")) == set(data.keys())


def test_ood_sets_are_measured_for_teacher_and_student(
    settings: dict[str, Any], photo_folder: Callable[..., Path]
) -> None:
    strange = photo_folder(20, name="strange", first=500)
    config = configured(settings, evaluation__ood=[{"name": "strange", "uri": str(strange)}])
    pipeline, _ = finish(config)
    found = {
        (row["subject"], row["name"]): row
        for row in pipeline.evaluated.record["rows"]
        if row["dataset"] == "strange"
    }
    for subject in ("teacher", "student"):
        for metric in ("auroc", "fpr95", "fpr95_openood"):
            row = found[subject, metric]
            assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1


@pytest.mark.slow
def test_batches_prepared_by_other_processes_train_the_same_student(
    settings: dict[str, Any],
) -> None:
    students = []
    for name, workers, memory in (("none", 0, 2.0), ("kept", 2, 2.0), ("anew", 2, 0.0)):
        config = configured(
            settings,
            root=f"{settings['root']}-{name}",
            runtime__loader_workers=workers,
            runtime__memory_gb=memory,
        )
        path = Path(config.root) / "students" / Pipeline(config).trained.id / "student.safetensors"
        students.append(path.read_bytes())
    assert students[0] == students[1] == students[2]


def test_photos_that_a_teacher_cannot_tell_apart_are_refused_before_the_training(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "dark"
    folder.mkdir()
    for level in range(40):
        # Black but for one pixel: other bytes, other pixels, nothing to see.
        pixels = np.zeros((48, 40, 3), np.uint8)
        pixels[level, 20] = 3
        Image.fromarray(pixels).save(folder / f"{level}.png")
    settings["data"] = {**settings["data"], "uri": str(folder)}
    with pytest.raises(InputError, match="nearly the same embedding for all photos of shapes"):
        assert Pipeline(parse_config(settings, "test")).trained
