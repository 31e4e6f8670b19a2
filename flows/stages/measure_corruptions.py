"""How teacher and student bear common corruptions of the test photos.

Legend: ``V`` views, one per corruption and severity, ``N`` images, ``K`` student width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.config.run import RunConfig
from flows.data.dataset import Dataset
from flows.stages.cache_requests import cache_spec, student_cache_spec
from flows.stages.models import known_teacher, load_teacher
from flows.stages.spaces import Classes, Found, Spaces, spaces_of
from flows.stages.stored_embeddings import stored_embeddings
from storage.cache import CacheSpec
from storage.root import Root
from tintem_core.corruptions import CORRUPTIONS, SEVERITIES, corruption_of
from tintem_core.errors import DegenerateError
from tintem_core.evaluation.bootstrap import Draws, MetricRow, bootstrap_interval, mean_row
from tintem_core.evaluation.cosine import row_cosines
from tintem_core.evaluation.neighbours import knn_predict
from tintem_core.evaluation.pairs import pair_cosines, pearson
from tintem_core.evaluation.robustness import mean_corruption_error
from tintem_core.evaluation.to_mapped import mean_direction
from tintem_core.models.embedder import Embedder
from tintem_core.models.joint import taught_latents
from tintem_core.objectives.base import Objective
from tintem_core.views import CORRUPTED

Doubles = NDArray[np.float64]
VIEWS = len(CORRUPTIONS) * SEVERITIES


@dataclass(frozen=True)
class Corrupted:
    """The embeddings of some test photos under every corruption."""

    views: list[Spaces]
    """By number of the view, see `tintem_core.corruptions.corruption_of`."""
    rows: NDArray[np.int64]
    """Which test photos these are, shape (N,)."""


def corrupted_photos(
    config: RunConfig,
    root: Root,
    data: Dataset,
    student_id: str,
    width: int,
    student: Callable[[], Embedder],
    objective: Objective,
) -> Corrupted:
    """Embed the first ``evaluation.corrupted_photos`` test photos under every corruption.

    Their keys are digests, so the first ones are drawn at random.

    Args:
        config: the run.
        root: where the embeddings are stored.
        data: whose test photos.
        student_id: whose embeddings.
        width: K.
        student: loads it.
        objective: how the embeddings are seen.
    """
    keys = list(data.keys("test"))
    only = frozenset(sorted(keys)[: config.evaluation.corrupted_photos])

    def embedded(spec: CacheSpec, model: Callable[[], Embedder]) -> NDArray[np.float32]:
        return stored_embeddings(
            config, root, spec, model, data, "test", recipe=CORRUPTED, only=only
        )

    device = config.runtime.device
    by_teacher = [
        embedded(
            cache_spec(
                config, known_teacher(each, device), data.name, CORRUPTED, VIEWS, tokens=False
            ),
            partial(load_teacher, each, device),
        )
        for each in config.teachers
    ]
    taught = [
        taught_latents(parts, config.teacher_weights) for parts in zip(*by_teacher, strict=True)
    ]
    spec = student_cache_spec(config, student_id, width, data.name, CORRUPTED, VIEWS)
    given = zip(taught, embedded(spec, student), strict=True)
    views = [spaces_of(objective, latents, answers) for latents, answers in given]
    return Corrupted(views, np.array([i for i, key in enumerate(keys) if key in only]))


def corruption_rows(
    knn: int, train: Spaces, corrupted: Corrupted, classes: Classes | None, drawn: Draws
) -> Found:
    """Measure over all corruptions and severities together; intervals are over photos."""
    known = train.asked()
    if known is not None:
        who, cosines_VN, constant_VN = known[0], *_cosines(known[1], corrupted)
        name = "corrupted_cosine_to_mapped"
        yield who, "test", mean_row(name, cosines_VN.mean(axis=0), **drawn)
        yield "constant", "test", mean_row(name, constant_VN.mean(axis=0), **drawn)
    if classes is None:
        return
    labels = classes.of["test"][corrupted.rows]
    labels = labels[labels >= 0]
    usual = np.bincount(classes.train[classes.train >= 0]).argmax()
    wrong = _wrong(knn, train, corrupted, classes)
    for who, wrong_VN in wrong.items():
        right_N = 1 - wrong_VN.mean(axis=0)
        chance = float(np.mean(labels == usual))
        yield who, "test", mean_row("corrupted_knn", right_N, **drawn, chance=chance)
    for who, wrong_VN in list(wrong.items())[1:]:
        # Of one corruption, all severities together; images first.
        pair = [w.reshape(len(CORRUPTIONS), SEVERITIES, -1).sum(axis=1).T for w in
                (wrong_VN, wrong["teacher"])]  # fmt: skip
        try:
            value, interval = (
                mean_corruption_error(*pair),
                bootstrap_interval(mean_corruption_error, *pair, **drawn, paired=True),
            )
        except DegenerateError:
            # A teacher without an error under some corruption is nothing to be relative to.
            continue
        yield who, "test", MetricRow("mce", value, *interval, len(labels))


def corruption_table(
    knn: int, train: Spaces, corrupted: Corrupted, classes: Classes | None
) -> pl.DataFrame:
    """Return a row for every corruption and severity.

    corruption; severity, 1 to 5; cosine and constant: mean cosine to the mapped teacher of the same
    corrupted photo, of the student and of a constant answer; pearson: of the pairwise cosines; knn
    and teacher_knn: accuracy. Null where it is not measured.
    """
    known = train.asked()
    cosines = None if known is None else _cosines(known[1], corrupted)
    wrong = None if classes is None else _wrong(knn, train, corrupted, classes)
    rows = []
    for view, spaces in enumerate(corrupted.views):
        name, severity = corruption_of(view)
        rows.append({
            "corruption": name,
            "severity": severity + 1,
            "cosine": None if cosines is None else float(cosines[0][view].mean()),
            "constant": None if cosines is None else float(cosines[1][view].mean()),
            "pearson": _pearson(spaces),
            "knn": None if wrong is None else float(1 - wrong["student"][view].mean()),
            "teacher_knn": None if wrong is None else float(1 - wrong["teacher"][view].mean()),
        })  # fmt: skip
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(list(rows[0])[2:], pl.Float64))


def _pearson(spaces: Spaces) -> float | None:
    try:
        return pearson(pair_cosines(spaces.teacher), pair_cosines(spaces.student))
    except DegenerateError:
        return None


def _cosines(mapped_train: NDArray[np.float32], corrupted: Corrupted) -> tuple[Doubles, Doubles]:
    """Cosines (V, N) to what was asked for, of the answer and of the mean train target."""
    centre = mean_direction(mapped_train)
    own, constant = [], []
    for spaces in corrupted.views:
        asked = spaces.asked()
        assert asked is not None
        own.append(row_cosines(asked[1], asked[2]))
        constant.append(row_cosines(asked[1], np.broadcast_to(centre, asked[1].shape)))
    return np.stack(own), np.stack(constant)


def _wrong(knn: int, train: Spaces, corrupted: Corrupted, classes: Classes) -> dict[str, Doubles]:
    """Whether the vote of clean train photos errs, by subject: (V, N), labelled photos only."""
    told_train = classes.train >= 0
    bank_labels = classes.train[told_train]
    labels = classes.of["test"][corrupted.rows]
    told = labels >= 0
    found: dict[str, list[Doubles]] = {}
    for spaces in corrupted.views:
        for (who, bank), (_, queries) in zip(train.subjects(), spaces.subjects(), strict=True):
            bank = bank[told_train]
            _, given = knn_predict(bank, bank_labels, queries[told], min(knn, len(bank)))
            found.setdefault(who, []).append((given != labels[told]).astype(np.float64))
    return {who: np.stack(wrong) for who, wrong in found.items()}
