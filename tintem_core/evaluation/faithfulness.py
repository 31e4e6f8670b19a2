"""How faithful a student is to its teacher: values with bootstrap 95 % intervals.

Images are resampled, never pairs: pairs that share an image are not independent. A pair of an
image with its own copy is not counted, so duplicates in a resample cannot fake cosines of 1.
Legend: N images, D teacher width, K student width, P pairs i < j, R resamples. NumPy in and out.
"""

import numpy as np
from numpy.typing import NDArray

from tintem_core.errors import DegenerateError, ShapeError
from tintem_core.evaluation.bootstrap import (
    MetricRow,
    bootstrap_interval,
    mean_row,
    multinomial_counts,
    percentile_interval,
    refuse_few,
)
from tintem_core.evaluation.neighbours import nearest, shared_share, telling_neighbours
from tintem_core.evaluation.pairs import mid_ranks, pair_cosines, pair_subsample, pearson, spearman
from tintem_core.evaluation.to_mapped import to_mapped_rows

Table = NDArray[np.floating]
Doubles = NDArray[np.float64]


def faithfulness(
    teacher_ND: Table,
    mapped_NK: Table | None,
    student_NK: Table,
    *,
    centre_K: Doubles | None = None,
    seed: int,
    resamples: int = 1000,
) -> list[MetricRow]:
    """Compare a student with its teacher on the same images.

    Rows, in order: those of `to_mapped.to_mapped_rows` on all images, left out when `mapped_NK` is
    None; then, on at most 2,000 images drawn with `seed`: `pairwise_pearson`, `pairwise_spearman`
    (off-diagonal cosines), `cka_linear`, `neighbour_overlap_10` (within the drawn images; chance
    is k / (N - 1), and k shrinks, and so does the name, where it would be above 1/2).
    `MetricRow.n` says how many images a number comes from.

    Args:
        teacher_ND: teacher embeddings, shape (N, D).
        mapped_NK: h(teacher), shape (N, K), or None when there is no mapping into this space.
        student_NK: student embeddings, shape (N, K').
        centre_K: `to_mapped.mean_direction` of the mapped train images, for the centred cosine.
        seed: of the subsample and the bootstrap.
        resamples: bootstrap draws.

    Raises:
        ShapeError: the tables do not hold the same images.
        DegenerateError: fewer than 4 images, a zero row, or constant cosines.
    """
    count = len(teacher_ND)
    if len(student_NK) != count or (mapped_NK is not None and len(mapped_NK) != count):
        raise ShapeError(
            f"The teacher holds {count} images, the student {len(student_NK)}; "
            "faithfulness compares the same images row by row."
        )
    rows: list[MetricRow] = []
    if mapped_NK is not None:
        rows += to_mapped_rows(mapped_NK, student_NK, centre_K, seed=seed, resamples=resamples)
    picked = pair_subsample(count, seed)
    teacher, student = teacher_ND[picked], student_NK[picked]
    counts_RN = _counts(len(picked), resamples, seed)
    first, second = _both_cosines(teacher, student)
    return [
        *rows,
        _pearson_row(first, second, counts_RN),
        _spearman_row(first, second, counts_RN),
        _cka_row(teacher, student, counts_RN),
        _overlap_row(teacher, student, counts_RN),
    ]


def pearson_over_sets(
    teacher_ND: Table, student_NK: Table, *, seed: int, resamples: int = 1000
) -> MetricRow:
    """`pairwise_pearson` of images of several sets put together, test and OOD images, say.

    Within one set all cosines are alike; over several, that sets lie apart counts too. All pairs
    of at most 2,000 images drawn with `seed` from the whole, so a large set weighs more.

    Args:
        teacher_ND, student_NK: row i of both is the same image; shapes (N, D) and (N, K).
        seed: of the subsample and the bootstrap.
        resamples: bootstrap draws.

    Raises:
        ShapeError, DegenerateError: as `faithfulness`.
    """
    if len(teacher_ND) != len(student_NK):
        raise ShapeError(f"{len(teacher_ND)} teacher rows, but {len(student_NK)} student rows.")
    picked = pair_subsample(len(teacher_ND), seed)
    cosines = _both_cosines(teacher_ND[picked], student_NK[picked])
    return _pearson_row(*cosines, _counts(len(picked), resamples, seed))


def prediction_agreement(
    teacher_N: NDArray[np.integer],
    student_N: NDArray[np.integer],
    *,
    seed: int,
    resamples: int = 1000,
    name: str = "knn_agreement",
) -> MetricRow:
    """Share of images on which two classifiers predict the same class."""
    if teacher_N.shape != student_N.shape:
        raise ShapeError(f"Predictions {teacher_N.shape} and {student_N.shape} differ in shape.")
    return mean_row(name, teacher_N == student_N, seed=seed, resamples=resamples)


def score_rank_correlation(
    teacher_N: Table,
    student_N: Table,
    *,
    seed: int,
    resamples: int = 1000,
    name: str = "ood_rank_correlation",
) -> MetricRow:
    """Spearman correlation of two scores of the same images (OOD scores, say).

    Raises:
        DegenerateError: fewer than 4 images, or a constant score.
    """
    if teacher_N.shape != student_N.shape:
        raise ShapeError(f"Scores {teacher_N.shape} and {student_N.shape} differ in shape.")
    refuse_few(len(teacher_N))
    interval = bootstrap_interval(
        spearman, teacher_N, student_N, seed=seed, resamples=resamples, paired=True
    )
    return MetricRow(name, spearman(teacher_N, student_N), *interval, len(teacher_N))


def _counts(count: int, resamples: int, seed: int) -> Doubles:
    return multinomial_counts(count, resamples, np.random.default_rng(seed))


def _both_cosines(teacher_ND: Table, student_NK: Table) -> tuple[Doubles, Doubles]:
    return pair_cosines(teacher_ND, "the teacher"), pair_cosines(student_NK, "the student")


def _pair_sums(counts_RN: Doubles, pairs_P: Doubles) -> Doubles:
    """Sum over pairs i != j of count_i count_j value_ij, for every draw: (R,).

    One matrix product replaces R passes over P resampled pairs.
    """
    images = counts_RN.shape[1]
    square = np.zeros((images, images))
    square[np.triu_indices(images, 1)] = pairs_P
    # Only i < j is filled, so each unordered pair is met once; the caller's ratios do not mind.
    return np.einsum("rn,rn->r", counts_RN @ square, counts_RN)


def _pearson_row(first_P: Doubles, second_P: Doubles, counts_RN: Doubles) -> MetricRow:
    weight = _pair_sums(counts_RN, np.ones_like(first_P))
    x, y = first_P - first_P.mean(), second_P - second_P.mean()
    mean_x, mean_y, xx, yy, xy = (
        _pair_sums(counts_RN, v) / weight for v in (x, y, x * x, y * y, x * y)
    )
    value = pearson(first_P, second_P)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = (xy - mean_x * mean_y) / np.sqrt((xx - mean_x**2) * (yy - mean_y**2))
    return MetricRow("pairwise_pearson", value, *percentile_interval(drawn), counts_RN.shape[1])


def _spearman_row(first_P: Doubles, second_P: Doubles, counts_RN: Doubles) -> MetricRow:
    weight = _pair_sums(counts_RN, np.ones_like(first_P))
    u, v = (mid_ranks(p) / len(p) for p in (first_P, second_P))
    u, v = u - u.mean(), v - v.mean()
    influence = u * v + _rank_response(u, v) + _rank_response(v, u)
    scale = np.sqrt((u @ u) * (v @ v)) / len(u)
    drawn = np.clip(_pair_sums(counts_RN, influence) / weight / scale, -1.0, 1.0)
    value = float(np.clip(u.dot(v) / len(u) / scale, -1.0, 1.0))
    return MetricRow("pairwise_spearman", value, *percentile_interval(drawn), counts_RN.shape[1])


def _rank_response(ranks_P: Doubles, other_P: Doubles) -> Doubles:
    """What one more copy of a pair changes in a rank covariance by moving the others' ranks.

    Ranks depend on the whole draw; re-ranking P pairs R times would cost minutes, so the change
    is taken to first order: H(q) = mean_p other_p [rank_p > rank_q], centred.
    """
    order = np.argsort(ranks_P, kind="stable")
    response = np.empty_like(other_P)
    response[order] = other_P[order] / 2 - np.cumsum(other_P[order])
    response /= len(other_P)
    return response - response.mean()


def _cka_row(teacher_ND: Table, student_NK: Table, counts_RN: Doubles) -> MetricRow:
    """Linear centred kernel alignment (Kornblith et al., ICML 2019)."""
    first, second = (_centred_gram(t) for t in (teacher_ND, student_NK))
    images = len(first)
    drawn = _hsic(counts_RN, first, second) / np.sqrt(
        _hsic(counts_RN, first, first) * _hsic(counts_RN, second, second)
    )
    value = float(np.sum(first * second) / (np.linalg.norm(first) * np.linalg.norm(second)))
    return MetricRow("cka_linear", value, *percentile_interval(np.minimum(drawn, 1.0)), images)


def _centred_gram(rows_NK: Table) -> Doubles:
    rows = rows_NK.astype(np.float64)
    rows -= rows.mean(axis=0)
    gram = rows @ rows.T
    size = float(np.linalg.norm(gram))
    if not size > 0 or not np.isfinite(size):
        raise DegenerateError("CKA of constant embeddings is undefined; the embeddings collapsed.")
    return np.asarray(gram / size, np.float64)


def _hsic(counts_RN: Doubles, first_NN: Doubles, second_NN: Doubles) -> Doubles:
    """Sum of the product of two Gram matrices re-centred on each draw: (R,).

    An image drawn twice meets itself once per copy, as it does in the full sample: squaring its
    count would double the weight of the diagonal and pull every draw towards 1.
    """
    images = len(first_NN)

    def smoothed(gram_NN: Doubles) -> Doubles:
        diagonal = np.diagonal(gram_NN)
        return counts_RN @ (gram_NN - np.diag(diagonal)) + diagonal

    one, two = smoothed(first_NN), smoothed(second_NN)
    total = np.einsum("rn,rn->r", smoothed(first_NN * second_NN), counts_RN)
    means = np.einsum("rn,rn,rn->r", one, two, counts_RN)
    grand = np.einsum("rn,rn->r", one, counts_RN) * np.einsum("rn,rn->r", two, counts_RN)
    return np.asarray(total - 2 * means / images + grand / images**2, np.float64)


def _overlap_row(teacher_ND: Table, student_NK: Table, counts_RN: Doubles) -> MetricRow:
    """Queries are resampled, the images they are looked up among stay."""
    images = len(teacher_ND)
    k = telling_neighbours(images - 1)
    lists = (nearest(t, t, k, exclude_self=True)[1] for t in (teacher_ND, student_NK))
    shares = shared_share(*lists)
    drawn = counts_RN @ shares / images
    interval = percentile_interval(drawn)
    chance = k / (images - 1)
    return MetricRow(f"neighbour_overlap_{k}", float(shares.mean()), *interval, images, chance)
