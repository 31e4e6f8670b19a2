"""Students learn from the evaluation view, and from images that the data does not show."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.config.load import parse_config
from flows.experiments.students import assign_ids, plan_students
from flows.maintenance.verify import verify
from flows.stages.pipeline import Pipeline
from flows.stages.results import from_ids, to_ids
from storage.cache import FeatureCache
from tests.runs import write_config
from tintem_core.errors import InputError


def run(settings: dict[str, Any], **changes: Any) -> Pipeline:
    content = {**settings, "training": {**settings["training"], "epochs": 2}}
    for name, value in changes.items():
        section, _, key = name.partition("__")
        content[section] = {**content.get(section, {}), key: value} if key else value
    return Pipeline(parse_config(content, "settings"))


WITH = {"training__support": 0.25, "support": {"synthetic": 6}}


def test_support_images_are_embedded_once_and_named_in_the_student(
    settings: dict[str, Any],
) -> None:
    with_support = run(settings, **WITH)
    spec = with_support.trained.record["spec"]
    cache = FeatureCache.open(
        with_support.root, with_support.extracted.evaluation_caches["dead-leaves"]
    )
    assert not cache.missing(with_support.indexed.support["dead-leaves"].keys())
    assert spec["training"]["support"] == 0.25
    assert list(spec["support"]) == ["dead-leaves"]
    again = run(settings, **WITH)
    assert again.extracted.reused
    assert again.trained.reused
    more = run(settings, training__support=0.25, support={"synthetic": 8})
    assert more.extracted.training_cache == with_support.extracted.training_cache
    assert more.trained.id != with_support.trained.id


def test_what_a_student_does_not_learn_from_leaves_no_trace_in_its_id(
    settings: dict[str, Any],
) -> None:
    plain = run(settings, training__evaluation_view=0)
    spec = plain.trained.record["spec"]
    assert not {"evaluation_cache", "support"} & set(spec)
    assert not {"evaluation_view", "support"} & set(spec["training"])
    assert "stages" not in spec["student"]
    seen = run(settings, training__evaluation_view=0.5)
    assert seen.trained.id != plain.trained.id
    assert (
        seen.trained.record["spec"]["evaluation_cache"]
        == seen.extracted.evaluation_caches["shapes"]
    )
    assert seen.extracted.reused, "the evaluation view was there already"


def test_photos_that_the_run_measures_on_are_no_support(
    settings: dict[str, Any], photo_folder: Callable[..., Path]
) -> None:
    other = photo_folder(12, name="other", first=500)
    everything = {"name": "everything", "uri": settings["data"]["uri"]}
    sets = {"synthetic": 0, "photos": [{"name": "other", "uri": str(other)}]}
    assert run(settings, training__support=0.25, support=sets).trained.record["steps"] > 0
    sets["photos"] = [everything]
    with pytest.raises(InputError, match=r"every support image of everything .* is also a photo"):
        _ = run(settings, training__support=0.25, support=sets).indexed


@pytest.mark.parametrize("keep_mapped", [False, True])
def test_the_local_term_has_tokens_of_every_view_that_is_learned_from(
    settings: dict[str, Any], keep_mapped: bool
) -> None:
    with_tokens = run(
        settings,
        **WITH,
        training__local_weight=1.0,
        cache__tokens=True,
        cache__keep_mapped=keep_mapped,
    )
    assert with_tokens.trained.record["metrics"]["final_loss"] > 0
    assert len(with_tokens.all_caches.mapped_tokens) == (3 if keep_mapped else 0)
    target = write_config(Path(settings["root"]).parent, with_tokens.config.model_dump(mode="json"))
    assert all(verdict.sound for verdict in verify(str(target)))


def test_other_processes_find_the_support_images_again(settings: dict[str, Any]) -> None:
    mine = run(settings, **WITH)
    told = json.loads(json.dumps(to_ids(mine.indexed, mine.all_caches, mine.mapped)))
    indexed, extracted, _ = from_ids(mine.root, told)
    assert extracted == mine.all_caches
    found, wanted = (x.support["dead-leaves"].digest() for x in (indexed, mine.indexed))
    assert found == wanted


def test_a_sweep_knows_the_ids_of_students_with_and_without_support(
    settings: dict[str, Any],
) -> None:
    grid = {"training.support": [0, 0.25]}
    base = run(settings, **WITH, sweep={"grid": grid})
    students = assign_ids(plan_students(base.config), base.indexed, base.extracted)
    assert len({student.id for student in students}) == 2
    without = run(settings, training__support=0, sweep={"grid": grid})
    with pytest.raises(InputError, match="learns from support images, which the run does not"):
        plan_students(without.config)


def test_the_centred_term_starts_from_the_mean_of_the_training_photos_targets(
    settings: dict[str, Any],
) -> None:
    from flows.data.features import evaluation_latents, evaluation_rows
    from flows.stages.map import apply, load_mapping, mean_target

    def centre(pipeline: Pipeline) -> Any:
        keys = pipeline.indexed.data.keys("train")
        latents = evaluation_rows(pipeline.root, pipeline.extracted, "shapes", keys)
        return mean_target(pipeline.config, pipeline.root, pipeline.mapped, latents)

    pipeline = run(settings)
    mapping = load_mapping(pipeline.config, pipeline.root, pipeline.mapped)
    train = evaluation_latents(pipeline.root, pipeline.extracted, pipeline.indexed.data, "train")
    mapped = apply(mapping, train)
    wanted = (mapped / np.linalg.norm(mapped, axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(centre(pipeline).numpy(), wanted, rtol=1e-5)
    without = run(settings, training__centred_weight=0)
    assert centre(without) is None
    assert centre(run(settings, training__objective="proteus")) is None
    assert without.trained.id != pipeline.trained.id
    assert "centred_weight" not in without.trained.record["spec"]["training"]


def test_labels_need_no_support(settings: dict[str, Any]) -> None:
    supervised = run(settings, **WITH, training__objective="supervised")
    assert "support" not in supervised.trained.record["spec"]
    assert list(supervised.extracted.evaluation_caches) == ["shapes"]


def test_every_support_set_needs_a_name_of_its_own(settings: dict[str, Any]) -> None:
    twice = {"photos": [{"name": "shapes", "uri": "x"}]}
    with pytest.raises(InputError, match="two datasets are named 'shapes'"):
        run(settings, support=twice)


def test_latents_of_support_images_are_those_of_the_teacher(settings: dict[str, Any]) -> None:
    from flows.data.features import taught_latents
    from flows.data.rendering import renderer
    from flows.stages.models import load_teacher
    from tintem_core.views import EVAL

    pipeline = run(settings, **WITH)
    images = pipeline.indexed.support["dead-leaves"]
    cached = taught_latents(pipeline.root, pipeline.extracted, images, None, 2).all(0)
    source = renderer(pipeline.config, images, None, EVAL)
    pixels = np.concatenate([source.views(row, range(1), 64) for row in range(len(source.keys))])
    fresh = load_teacher(pipeline.config.teacher, "cpu").embed(pixels).embedding
    np.testing.assert_allclose(cached, fresh, rtol=2e-3, atol=2e-3)
