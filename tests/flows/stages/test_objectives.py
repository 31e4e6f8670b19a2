"""Baselines, the local term, joint fits, warm starts and extensions, from the config on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from flows.config.run import RunConfig
from flows.reporting.base import reporting_to
from flows.stages.models import load_objective, load_student
from flows.stages.pipeline import Pipeline
from tests.flows.stages.test_pipeline import configured
from tests.runs import Notes
from tintem_core.errors import InputError


@pytest.fixture
def quick(settings: dict[str, Any]) -> dict[str, Any]:
    settings["training"] |= {"epochs": 2, "batch_size": 8}
    return settings


def trained(config: RunConfig) -> tuple[Pipeline, Notes]:
    pipeline, notes = Pipeline(config), Notes()
    with reporting_to(notes):
        assert pipeline.trained
    return pipeline, notes


def student_folder(pipeline: Pipeline) -> Path:
    return Path(pipeline.config.root) / "students" / pipeline.trained.id


def subjects(pipeline: Pipeline) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in pipeline.evaluated.record["rows"]:
        found.setdefault(row["subject"], set()).add(row["name"])
    return found


def test_baselines_share_everything_with_tintem_but_the_objective(quick: dict[str, Any]) -> None:
    students = {}
    for objective in ("tintem", "proteus", "linear-cosine", "supervised"):
        pipeline, _ = trained(configured(quick, training__objective=objective))
        students[objective] = load_file(student_folder(pipeline) / "student.safetensors")
        assert pipeline.extracted.reused == pipeline.mapped.reused == (objective != "tintem")
        assert (student_folder(pipeline) / "objective.safetensors").exists() == (
            objective != "tintem"
        )
        measured = subjects(pipeline)
        # A distance to the mapped teacher is measured only where that was the aim.
        assert ("cosine_to_mapped" in measured["student"]) == (objective == "tintem")
        assert ("head" in measured) == (objective in ("proteus", "linear-cosine"))
        if "head" in measured:
            assert {"cosine_to_mapped", "pairwise_pearson", "knn_agreement"} <= measured["head"]
    first = students.pop("tintem")
    for other in students.values():
        assert {k: v.shape for k, v in other.items()} == {k: v.shape for k, v in first.items()}
        assert any(not torch.equal(other[k], first[k]) for k in first)


def test_a_supervised_training_without_labels_says_what_is_missing(
    quick: dict[str, Any], photo_folder: Callable[..., Path]
) -> None:
    config = configured(
        quick, data__uri=str(photo_folder(40, name="flat")), training__objective="supervised"
    )
    with pytest.raises(InputError, match=r"needs a label for every training photo, but \d+ of"):
        trained(config)


@pytest.mark.parametrize("student", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_the_local_term_teaches_patch_tokens(quick: dict[str, Any], student: str) -> None:
    config = configured(
        quick,
        cache__tokens=True,
        training__local_weight=1.0,
        training__epochs=3,
        mapping__steps=5,
        student__model=student,
    )
    pipeline, _ = trained(config)
    loss = pl.read_parquet(student_folder(pipeline) / "history.parquet")["loss"]
    assert loss[-1] < loss[0]
    found = load_student(config, pipeline.root, pipeline.mapped, pipeline.trained)
    embedding, tokens = found.with_tokens(torch.rand(2, 3, 32, 32), count=4)
    assert (embedding.shape, tokens.shape) == ((2, 32), (2, 4, 32))
    has_own = student.startswith("mobilenet")
    assert (found.token_projection is not None) == has_own


def test_the_local_term_needs_cached_tokens(quick: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"set cache\.tokens to true"):
        configured(quick, training__local_weight=1.0)


@pytest.mark.parametrize("head", ["linear", "layernorm", "orthogonal"])
def test_a_joint_mapping_is_kept_beside_its_student(quick: dict[str, Any], head: str) -> None:
    config = configured(quick, mapping__fit="joint", mapping__head=head)
    pipeline, _ = trained(config)
    start = load_file(Path(config.root) / "mappings" / pipeline.mapped.id / "mapping.safetensors")
    end = load_file(student_folder(pipeline) / "objective.safetensors")
    assert set(start) == set(end)
    assert not torch.equal(start["linear.weight"], end["linear.weight"])
    assert "cosine_to_mapped" in subjects(pipeline)["student"]
    objective = load_objective(config, pipeline.root, pipeline.mapped, pipeline.trained)
    latents = torch.rand(3, start["linear.weight"].shape[1])
    mapped = objective.get_submodule("mapping")(latents)
    assert mapped.shape == (3, 32)


def test_a_joint_fit_belongs_to_tintem(quick: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"set mapping\.fit to once"):
        configured(quick, mapping__fit="joint", training__objective="proteus")


def test_a_student_starts_from_a_file_and_its_bytes_are_its_identity(
    quick: dict[str, Any], tmp_path: Path
) -> None:
    first, _ = trained(configured(quick))
    weights = student_folder(first) / "student.safetensors"
    elsewhere = tmp_path / "copy.safetensors"
    elsewhere.write_bytes(weights.read_bytes())
    warm, notes = trained(configured(quick, student__weights=str(weights)))
    assert any("starts from" in note for note in notes.notes)
    losses = [
        pl.read_parquet(student_folder(p) / "history.parquet")["loss"][0] for p in (first, warm)
    ]
    assert losses[1] < losses[0]
    again, _ = trained(configured(quick, student__weights=str(elsewhere)))
    assert again.trained.reused
    with pytest.raises(InputError, match=r"student\.weights: there is no file"):
        trained(configured(quick, student__weights=str(tmp_path / "none.safetensors")))


def test_weights_of_another_model_fit_in_part_or_not_at_all(
    quick: dict[str, Any], tmp_path: Path
) -> None:
    from tintem_core.models.backbone import build_backbone
    from tintem_core.models.config import BackboneConfig

    model = build_backbone(BackboneConfig(model="test_vit2", image_size=32)).model
    save_file(dict(model.state_dict()), tmp_path / "vit2.safetensors")
    change = {"student__model": "test_vit", "student__weights": str(tmp_path / "vit2.safetensors")}
    with pytest.raises(InputError, match="does not fit"):
        trained(configured(quick, **change))
    _, notes = trained(configured(quick, **change, student__partial_weights=True))
    assert any("starts from" in note for note in notes.notes)


def test_a_longer_training_extends_a_finished_one_and_says_so(quick: dict[str, Any]) -> None:
    short, _ = trained(configured(quick))
    long, notes = trained(configured(quick, training__epochs=4, training__extends=2))
    assert long.trained.record["extends"] == short.trained.id
    assert any(f"extends {short.trained.id} from 2 to 4 epochs" in n for n in notes.notes)
    history = pl.read_parquet(student_folder(long) / "history.parquet")
    assert history["epoch"].to_list() == [1, 2, 3, 4]
    shorter = pl.read_parquet(student_folder(short) / "history.parquet")
    assert history["loss"][:2].to_list() == shorter["loss"].to_list()
    assert history["loss"][3] < history["loss"][1]


def test_an_extension_brings_what_it_extends_into_being(quick: dict[str, Any]) -> None:
    changes: dict[str, Any] = {
        "training__epochs": 3, "training__extends": 1, "mapping__fit": "joint",
        "mapping__head": "orthogonal", "training__ema_decay": 0.9,
    }  # fmt: skip
    alone, _ = trained(configured(quick, **changes))
    assert len(list((Path(quick["root"]) / "students").iterdir())) == 2
    other = configured(quick, **changes, root=quick["root"] + "-2")
    changes.update(training__epochs=1, training__extends=None)
    trained(configured(quick, **changes, root=quick["root"] + "-2"))
    again, _ = trained(other)
    assert again.trained.id == alone.trained.id
    first, second = (
        (student_folder(p) / "student.safetensors").read_bytes() for p in (alone, again)
    )
    assert first == second


def test_fewer_views_than_cached_can_be_used(quick: dict[str, Any]) -> None:
    one, _ = trained(configured(quick, training__views=1))
    two, _ = trained(configured(quick))
    assert one.extracted.training_cache == two.extracted.training_cache
    assert one.trained.id != two.trained.id
    with pytest.raises(InputError, match="more than the 2 cached views"):
        configured(quick, training__views=3)


def test_several_teachers_are_joined_by_their_weights(
    quick: dict[str, Any], tmp_path: Path
) -> None:
    from tintem_core.models.backbone import build_backbone
    from tintem_core.models.config import BackboneConfig

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build_backbone(BackboneConfig(model="test_vit", image_size=32)).model
    save_file(dict(model.state_dict()), tmp_path / "second.safetensors")
    second = {
        "model": "test_vit",
        "weights": str(tmp_path / "second.safetensors"),
        "image_size": 32,
        "weight": 3.0,
    }
    alone, _ = trained(configured(quick))
    changes: dict[str, Any] = {"cache__tokens": True, "training__local_weight": 0.5}
    both, _ = trained(configured(quick, other_teachers=[second]))
    assert both.extracted.training_cache == alone.extracted.training_cache
    assert both.trained.id != alone.trained.id
    width = alone.mapped.record["teacher_width"]
    assert both.mapped.record["teacher_width"] == width + 64

    from flows.data.features import taught_latents

    data = both.indexed.data
    joint = taught_latents(both.root, both.extracted, data, "train").all(0)
    np.testing.assert_allclose(np.linalg.norm(joint, axis=1), 1, rtol=1e-5)
    parts = joint[:, :width], joint[:, width:]
    np.testing.assert_allclose(np.linalg.norm(parts[0], axis=1), 0.25**0.5, rtol=1e-5)
    own = taught_latents(alone.root, alone.extracted, data, "train").all(0).astype(np.float32)
    unit = own / np.linalg.norm(own, axis=1, keepdims=True)
    np.testing.assert_allclose(parts[0] @ parts[0].T, 0.25 * unit @ unit.T, atol=1e-5)

    found = subjects(both)
    for name in ("test_efficientnet", "test_vit"):
        assert "pairwise_pearson" in found[f"student against {name}"]
    reweighted = configured(quick, other_teachers=[{**second, "weight": 1.0}])
    assert trained(reweighted)[0].trained.id != both.trained.id

    with_tokens, _ = trained(configured(quick, other_teachers=[second], **changes))
    assert with_tokens.trained.record["metrics"]["final_loss"] > 0
