"""Embeddings from a file stand in for a teacher: the same mapping, the same student."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flows.config.load import parse_config
from flows.data.dataset import Dataset
from flows.reporting.base import reporting_to
from flows.retraining.run import RetrainingRun
from flows.stages.extract import extract
from flows.stages.index import index
from flows.stages.pipeline import Pipeline
from storage.artifacts import read_file
from storage.cache import FeatureCache
from storage.root import open_root
from tests.runs import Notes, small_run
from tintem_core.errors import InputError

EVAL = {"count": 1, "recipe": {"name": "eval"}}


def settings(folder: Path, photos: Path, latents: Path, **others: Any) -> dict[str, Any]:
    """A run without a teacher."""
    run = small_run(folder, photos)
    del run["views"]
    return {
        **run,
        "root": str(folder / "imported"),
        "teacher": {"latents": str(latents), **others},
    }


def import_all(run: dict[str, Any]) -> tuple[Dataset, FeatureCache, list[str]]:
    """Index and import; return the photos, their cache, and what was noted."""
    config, root, notes = parse_config(run, "run.yaml"), open_root(run["root"]), Notes()
    with reporting_to(notes):
        indexed = index(config, root)
        extracted = extract(config, root, indexed)
    assert extracted.training_cache == extracted.evaluation_caches["shapes"]
    return indexed.data, FeatureCache.open(root, extracted.training_cache), notes.notes


def table(uris: list[str], width: int = 6) -> pl.DataFrame:
    latents = np.random.default_rng(0).normal(size=(len(uris), width)).astype(np.float32)
    return pl.DataFrame({"uri": uris, "embedding": latents})


def uris_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


def test_latents_exported_from_a_run_give_the_mapping_and_the_student_of_that_run(
    tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    photos = photo_folder(30, ("disc", "plain"))
    teacher_run = {**small_run(tmp_path, photos), "views": EVAL}
    teacher_run["training"] |= {"epochs": 1}
    first = Pipeline(parse_config(teacher_run, "run.yaml"))
    data = first.indexed.data
    cache = FeatureCache.open(first.root, first.extracted.evaluation_caches["shapes"])
    latents_ND = cache.reader(data.keys()).all(view=0).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(latents_ND))
    uris = [data.uris()[int(row)] for row in order]
    pl.DataFrame({"uri": uris, "embedding": latents_ND[order]}).write_parquet(
        tmp_path / "latents.parquet"
    )
    run = {
        **teacher_run,
        "root": str(tmp_path / "imported"),
        "teacher": {"latents": str(tmp_path / "latents.parquet")},
    }
    del run["views"]

    second = Pipeline(parse_config(run, "run.yaml"))

    for kind, name in (("mappings", "mapping"), ("students", "student")):
        file = f"{name}.safetensors"
        ids = [(p.mapped if kind == "mappings" else p.trained).id for p in (first, second)]
        assert ids[0] != ids[1]
        made = [read_file(p.root, kind, i, file) for p, i in zip((first, second), ids, strict=True)]
        assert made[0] == made[1]
    assert Pipeline(parse_config(run, "run.yaml")).trained.reused


@pytest.mark.parametrize("form", ["absolute", "key", "npy text", "npy csv"])
def test_photos_are_matched_by_path_or_by_content_key(
    tmp_path: Path, photo_folder: Callable[..., Path], form: str
) -> None:
    photos = photo_folder(30)
    uris = uris_of(photos)
    known = table(uris)
    more: dict[str, Any] = {}
    latents = tmp_path / "latents.parquet"
    if form == "absolute":
        known.with_columns(uri=pl.lit(f"{photos}/") + pl.col("uri")).write_parquet(latents)
    elif form == "key":
        known.write_parquet(latents)
        data, _, _ = import_all(settings(tmp_path, photos, latents))
        keys = dict(zip(data.uris(), data.keys(), strict=True))
        by_key = known.select(key=pl.col("uri").replace_strict(keys), embedding="embedding")
        by_key.write_parquet(latents)
    else:
        latents, names = tmp_path / "latents.npy", tmp_path / f"names.{form[4:]}"
        np.save(latents, known["embedding"].to_numpy().astype(np.float16))
        text = "\n".join(uris) if form == "npy text" else known.select("uri").write_csv()
        names.write_text(text)
        more = {"latents_names": str(names)}

    data, cache, _ = import_all(settings(tmp_path, photos, latents, **more))

    expected = dict(zip(uris, known["embedding"].to_numpy(), strict=True))
    stored = cache.reader(data.keys()).all(view=0)
    np.testing.assert_allclose(stored, [expected[uri] for uri in data.uris()], rtol=2e-3, atol=1e-3)


def test_photos_without_a_latent_and_latents_without_a_photo_are_left_out_and_told(
    tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    photos = photo_folder(30)
    uris = uris_of(photos)
    table([*uris[2:], "gone-1.png", "gone-2.png", "gone-3.png"]).write_parquet(
        tmp_path / "latents.parquet"
    )
    run = settings(tmp_path, photos, tmp_path / "latents.parquet")

    data, cache, notes = import_all(run)

    assert set(data.uris()) == set(uris[2:])
    assert cache.missing(data.keys()) == []
    told = "\n".join(notes)
    assert "left out: 2 without a latent" in told
    assert "3 of 31 latents" in told
    _, _, again = import_all(run)
    assert any("28 views reused" in note for note in again)


def contradicting(known: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([known, known.head(2).with_columns(known["embedding"][-2:])])


def repeated(known: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([known, known.head(2)])


def with_row(known: pl.DataFrame, row: Any) -> pl.DataFrame:
    rows = known["embedding"].to_list()
    rows[3] = row
    return known.with_columns(embedding=pl.Series(rows, dtype=pl.List(pl.Float32)))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda t: with_row(t, [1, 2, float("nan"), 4, 5, 6]), "1 of 30 .* NaN or infinity, that"),
        (lambda t: with_row(t, [0.0] * 6), "1 of 30 .* all zeros"),
        (lambda t: with_row(t, [1.0] * 5), "1 of 30 .* not 6 numbers wide"),
        (lambda t: with_row(t, None), "1 of 30 .* not 6 numbers wide"),
        (contradicting, "2 of 30 .* contradict an earlier one"),
        (lambda t: t.with_columns(pl.col("embedding").cast(pl.Array(pl.Int8, 6))), "Int8: give fl"),
        (lambda t: t.rename({"uri": "who"}), "no text column key or uri; its columns are who"),
        (lambda t: t.select("uri"), "no column embedding"),
        (lambda t: t.with_columns(uri=pl.lit("x/") + pl.col("uri")), "no photo of shapes has"),
    ],
)
def test_latents_that_cannot_be_learned_from_are_refused_with_their_number(
    tmp_path: Path,
    photo_folder: Callable[..., Path],
    broken: Callable[[pl.DataFrame], pl.DataFrame],
    said: str,
) -> None:
    photos = photo_folder(30)
    broken(table(uris_of(photos))).write_parquet(tmp_path / "latents.parquet")
    run = settings(tmp_path, photos, tmp_path / "latents.parquet")

    with pytest.raises(InputError, match=said):
        import_all(run)


def test_a_photo_named_twice_with_one_embedding_is_no_contradiction(
    tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    photos = photo_folder(30)
    repeated(table(uris_of(photos))).write_parquet(tmp_path / "latents.parquet")
    data, cache, _ = import_all(settings(tmp_path, photos, tmp_path / "latents.parquet"))
    assert cache.missing(data.keys()) == []


def test_an_ood_set_needs_latents_of_its_own(
    tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    photos, strange = photo_folder(30), photo_folder(6, name="strange", first=100)
    table(uris_of(photos)).write_parquet(tmp_path / "latents.parquet")
    run = settings(tmp_path, photos, tmp_path / "latents.parquet")
    run["evaluation"] = {"ood": [{"name": "strange", "uri": str(strange)}]}
    with pytest.raises(InputError, match="no photo of strange has a latent"):
        import_all(run)


def test_one_latent_is_not_taken_for_photos_of_two_sets(
    tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    photos, strange = photo_folder(30), photo_folder(6, name="strange", first=100)
    for i in range(6):
        (strange / f"photo-{100 + i:04d}.png").rename(strange / f"photo-{i:04d}.png")
    table(uris_of(photos)).write_parquet(tmp_path / "latents.parquet")
    run = settings(tmp_path, photos, tmp_path / "latents.parquet")
    run["evaluation"] = {"ood": [{"name": "strange", "uri": str(strange)}]}
    with pytest.raises(InputError, match=r"'photo-0000\.png' .* fits two photos"):
        import_all(run)


@pytest.mark.parametrize(
    ("section", "value", "said"),
    [
        ("views", {"count": 4}, "leave views out"),
        ("training", {"support": 0.2}, "leave out training.support"),
        ("cache", {"tokens": True}, "set cache.tokens to false"),
        ("evaluation", {"corrupted_photos": 8}, "set evaluation.corrupted_photos to 0"),
    ],
)
def test_what_only_a_model_could_give_is_refused(
    tmp_path: Path, section: str, value: dict[str, Any], said: str
) -> None:
    run = settings(tmp_path, tmp_path, tmp_path / "latents.parquet")
    with pytest.raises(InputError, match=said):
        parse_config({**run, section: value}, "run.yaml")


def test_a_night_needs_a_model(tmp_path: Path) -> None:
    run = settings(tmp_path, tmp_path, tmp_path / "latents.parquet")
    with pytest.raises(InputError, match="a night embeds new photos"):
        RetrainingRun(parse_config(run, "run.yaml")).run()
