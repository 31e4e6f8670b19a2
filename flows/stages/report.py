"""The report of a finished student: its evidence, read from what is stored, and the page itself.

No number is measured here but what a picture shows; no model runs, unless its embeddings are gone.
Legend: ``N`` photos, ``D`` teacher width, ``K`` student width.
"""

import base64
import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image
from timm.models import get_pretrained_cfg

from flows.config.run import RunConfig
from flows.data.caches import Extracted
from flows.data.dataset import Dataset
from flows.data.features import evaluation_caches, evaluation_rows
from flows.data.rendering import ViewSource, decoders, eval_source
from flows.reporting.evidence import TEST, Evidence, Photo, Picture, SeenSet
from flows.reporting.measures import Measures
from flows.reporting.page import report_page
from flows.reporting.sections.cost import METRIC
from flows.reporting.summary import summary_rows
from flows.stages.cache_requests import student_cache_spec
from flows.stages.models import load_embedder, load_history, load_objective
from flows.stages.peers import peers
from flows.stages.results import REPORT, Finished, Indexed
from flows.stages.selection import learnt_from
from flows.stages.spaces import spaces_of
from flows.stages.stored_embeddings import stored_embeddings
from storage.artifacts import read_file, read_record, write_beside
from storage.cache import FeatureCache
from storage.errors import StorageError
from storage.root import Root
from tintem_core.errors import TintemError
from tintem_core.models.config import TeacherConfig
from tintem_core.objectives.base import Objective

_MOST_PHOTOS, _SIDE, _QUALITY = 2_000, 96, 72


def write_report(run: Finished, export: dict[str, Any]) -> None:
    """Put the report beside an export, in the place of one that is there.

    Args:
        run: the student and what it was made from.
        export: the export's record.
    """
    page = report_page(gather(run, export))
    write_beside(run.root, "exports", export["id"], REPORT, page.encode())


def gather(run: Finished, export: dict[str, Any]) -> Evidence:
    """Read what a report is made of; of a set of more than 2,000 photos, 2,000 spread over it."""
    config, root, extracted = run.config, run.root, run.extracted
    indexed = run.indexed.measured
    mapped, trained, evaluated = run.mapped, run.trained, run.evaluated
    objective = load_objective(config, root, mapped, trained)
    embedder = partial(load_embedder, config, root, mapped, trained)

    def seen(name: str, dataset: Dataset, split: str | None) -> SeenSet:
        keys, labels = dataset.keys(split), dataset.labels(split)
        count = len(keys)
        rows_N = np.unique(np.linspace(0, count - 1, min(count, _MOST_PHOTOS)).astype(np.int64))
        kept = [keys[row] for row in rows_N]
        latents = evaluation_rows(root, extracted, dataset.name, kept).all(view=0)
        spec = student_cache_spec(config, trained.id, mapped.record["spec"]["width"], dataset.name)
        (answers,) = stored_embeddings(
            config, root, spec, embedder, dataset, split, only=frozenset(kept)
        )
        return _seen(name, count, rows_N, labels, objective, latents, answers)

    sets = [seen(TEST, indexed.data, "test")]
    sets += [seen(name, dataset, None) for name, dataset in indexed.ood.items()]
    records = (
        {**mapped.record, "id": mapped.id},
        trained.record,
        {**evaluated.record, "id": evaluated.id},
        export,
    )
    return Evidence(
        config,
        summary_rows(config, learnt_from(config, run.indexed).photos(), *records),
        Measures(evaluated.record["rows"]),
        sets[0],
        sets[1:],
        _tables(root, evaluated.id),
        load_history(root, trained),
        *records,
        teachers=_teachers(config, root, extracted),
        peers=peers(root, evaluated.record, METRIC),
        pictures=Thumbnails(config, indexed),
    )


def _seen(
    name: str,
    count: int,
    rows_N: NDArray[np.int64],
    labels: Sequence[str | None],
    objective: Objective,
    latents: NDArray[Any],
    answers: NDArray[Any],
) -> SeenSet:
    spaces = spaces_of(objective, latents.astype(np.float32), answers.astype(np.float32))
    _, asked, answer = spaces.asked() or (None, None, None)
    return SeenSet(
        name,
        count,
        rows_N,
        [labels[row] for row in rows_N],
        spaces.teacher,
        spaces.student,
        asked,
        answer,
    )


def _tables(root: Root, evaluation: str) -> dict[str, pl.DataFrame]:
    record = read_record(root, "evaluations", evaluation)
    assert record is not None
    return {
        name.removesuffix(".parquet"): pl.read_parquet(
            io.BytesIO(read_file(root, "evaluations", evaluation, name))
        )
        for name in record["files"]
    }


class Thumbnails:
    """Photos as small JPEGs, cut as the student sees them; each is decoded once."""

    def __init__(self, config: RunConfig, indexed: Indexed) -> None:
        self._threads = config.runtime.decode_threads
        self._sources: dict[str, ViewSource] = {
            TEST: eval_source(config, indexed.data, "test"),
            **{name: eval_source(config, found, None) for name, found in indexed.ood.items()},
        }
        self._labels = {
            TEST: indexed.data.labels("test"),
            **{name: found.labels() for name, found in indexed.ood.items()},
        }
        self._known: dict[Photo, Picture] = {}

    def __call__(self, photos: Sequence[Photo]) -> list[Picture]:
        new = [photo for photo in dict.fromkeys(photos) if photo not in self._known]
        with decoders(self._threads) as pool:
            self._known |= dict(zip(new, pool.map(self._picture, new), strict=True))
        return [self._known[photo] for photo in photos]

    def _picture(self, photo: Photo) -> Picture:
        source = self._sources[photo.dataset]
        name = source.uris[photo.row].rpartition("/")[2]
        return Picture(name, self._labels[photo.dataset][photo.row], _image(source, photo.row))


def _image(source: ViewSource, row: int) -> str | None:
    try:
        pixels = source.views(row, range(1), _SIDE)[0]
    except (StorageError, TintemError):
        # It is gone, or another one by now: the numbers of then hold all the same.
        return None
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(packed.getvalue()).decode()}"


def _teachers(config: RunConfig, root: Root, extracted: Extracted) -> list[dict[str, Any]]:
    """Return what determines each teacher's features, and the licence that is given for it."""
    caches = evaluation_caches(extracted, config.data.name)
    return [
        {
            "name": teacher.name,
            **FeatureCache.open(root, cache).spec.content["teacher"],
            "licence": _licence(teacher),
        }
        for cache, teacher in zip(caches, config.teachers, strict=True)
    ]


def _licence(teacher: TeacherConfig) -> str:
    if not teacher.model or teacher.weights != "pretrained":
        return "not given: its weights do not come from timm"
    known = get_pretrained_cfg(teacher.model)
    return (known and known.license) or "not given by timm"
