"""How near a student comes to the embeddings it was asked for, and what a constant would reach.

A cosine alone misleads: embeddings of one domain lie in a narrow cone, so that answering every
photo with their mean gives a high one. R² and the centred cosine have a floor that means something.
Legend: N images, K width, R resamples. NumPy in and out.
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
from tintem_core.evaluation.cosine import row_cosines, unit_rows

Table = NDArray[np.floating]
Doubles = NDArray[np.float64]
# Of unit rows, whose squared distances to their mean lie in 0..1; float32 noise is far below.
_SMALLEST_VARIANCE = 1e-12
# 32 MiB of float64 counts at a time.
_BLOCK_COUNTS = 1 << 22


def mean_direction(rows_NK: Table) -> Doubles:
    """The mean of the unit rows, float64 (K,), which is shorter than 1.

    Raises:
        ShapeError, DegenerateError: as `neighbours.unit_rows`.
    """
    return np.asarray(unit_rows(rows_NK).mean(axis=0, dtype=np.float64), np.float64)


def to_mapped_rows(
    mapped_NK: Table,
    student_NK: Table,
    centre_K: Doubles | None = None,
    *,
    seed: int,
    resamples: int = 1000,
) -> list[MetricRow]:
    """Compare a student with its targets, with s and z their unit rows.

    `cosine_to_mapped`: mean of cos(s, z); `cosine_to_mapped_p5`: its 5th percentile;
    `r2_to_mapped`: see `r2`; `centred_cosine_to_mapped`: mean of cos(s - m, z - m), where m is
    `centre_K`, left out without one.

    Args:
        mapped_NK: what the student is asked for, h(teacher), shape (N, K).
        student_NK: the same images, shape (N, K).
        centre_K: `mean_direction` of the mapped *train* images, so that the measure of an image
            does not depend on the others it is tested with; shape (K,).
        seed: of the bootstrap over images.
        resamples: bootstrap draws.

    Raises:
        ShapeError: shapes differ.
        DegenerateError: fewer than 4 images, a zero row, or targets that are all the same.
    """
    mapped, student = _units(mapped_NK, student_NK)
    cosines = row_cosines(mapped, student)
    interval = bootstrap_interval(_p5, cosines, seed=seed, resamples=resamples)
    rows = [
        mean_row("cosine_to_mapped", cosines, seed=seed, resamples=resamples),
        MetricRow("cosine_to_mapped_p5", _p5(cosines), *interval, len(cosines)),
        _r2_row(mapped, student, seed=seed, resamples=resamples),
    ]
    if centre_K is not None:
        centred = row_cosines(*(_centred(units, centre_K) for units in (mapped, student)))
        rows.append(mean_row("centred_cosine_to_mapped", centred, seed=seed, resamples=resamples))
    return rows


def constant_rows(
    mapped_NK: Table, centre_K: Doubles, *, seed: int, resamples: int = 1000
) -> list[MetricRow]:
    """What the same answer m to every image reaches: `cosine_to_mapped` and `r2_to_mapped`.

    m is not brought to length 1: as it is, it is the constant of the smallest squared error on the
    images it is the mean of, so its R² is 0 there, and below 0 on others.

    Args:
        mapped_NK: what a student is asked for, shape (N, K).
        centre_K: the answer m, `mean_direction` of the mapped train images; shape (K,).
        seed: of the bootstrap over images.
        resamples: bootstrap draws.

    Raises:
        ShapeError, DegenerateError: as `to_mapped_rows`.
    """
    mapped = unit_rows(mapped_NK, "the targets")
    answer_NK = np.broadcast_to(centre_K, (len(mapped), len(centre_K)))
    cosines = row_cosines(mapped, answer_NK)
    return [
        mean_row("cosine_to_mapped", cosines, seed=seed, resamples=resamples),
        _r2_row(mapped, answer_NK, seed=seed, resamples=resamples),
    ]


def r2(mapped_NK: Table, student_NK: Table) -> float:
    """The share of the targets' variance that a student explains.

    1 - sum |s - z|^2 / sum |z - z_mean|^2 with unit rows s and z, and the mean z_mean of the z of
    these same images, not of the train images. 1 is perfect, 0 is what their mean would reach.

    Raises:
        ShapeError, DegenerateError: as `to_mapped_rows`.
    """
    missed_N, apart_NK = _squares(*_units(mapped_NK, student_NK))
    return float(1 - missed_N.sum() / (apart_NK**2).sum())


def _r2_row(mapped_NK: Table, answer_NK: Table, *, seed: int, resamples: int) -> MetricRow:
    """R² of answers as they are; every draw has its own mean, as the full sample has.

    A draw's mean is nearer to its N picks than the full sample's is, whereby their variance is
    smaller by (N - 1) / N on average. Without the factor that makes good for it, the intervals lie
    below R², and that of a constant answer does not hold its value.
    """
    missed_N, apart_NK = _squares(mapped_NK, answer_NK)
    spread_N = np.einsum("nk,nk->n", apart_NK, apart_NK)
    count, rng = len(missed_N), np.random.default_rng(seed)
    drawn, block = [], max(1, _BLOCK_COUNTS // count)
    for start in range(0, resamples, block):
        counts_RN = multinomial_counts(count, min(block, resamples - start), rng)
        mean_RK = counts_RN @ apart_NK / count
        variance_R = counts_RN @ spread_N / count - np.einsum("rk,rk->r", mean_RK, mean_RK)
        # Copies of one image have no variance; a mean that rounds below none is none.
        missed_R = counts_RN @ missed_N / count * (1 - 1 / count)
        drawn.append(1 - missed_R / np.maximum(variance_R, _SMALLEST_VARIANCE))
    value = float(1 - missed_N.sum() / spread_N.sum())
    return MetricRow("r2_to_mapped", value, *percentile_interval(np.concatenate(drawn)), count)


def _squares(mapped_NK: Table, answer_NK: Table) -> tuple[Doubles, Doubles]:
    """|answer - z|^2 of each image (N,), and z - z_mean (N, K)."""
    refuse_few(len(mapped_NK))
    _refuse_other_shape(mapped_NK, answer_NK)
    mapped = mapped_NK.astype(np.float64)
    missed_NK = answer_NK - mapped
    apart_NK = mapped - mapped.mean(axis=0)
    if not (apart_NK**2).sum() > _SMALLEST_VARIANCE * len(mapped):
        raise DegenerateError(
            "The targets of all images are the same, so there is no variance to explain; "
            "the mapped embeddings collapsed."
        )
    return np.einsum("nk,nk->n", missed_NK, missed_NK), apart_NK


def _units(mapped_NK: Table, student_NK: Table) -> tuple[Table, Table]:
    _refuse_other_shape(mapped_NK, student_NK)
    return unit_rows(mapped_NK, "the targets"), unit_rows(student_NK, "the student")


def _centred(units_NK: Table, centre_K: Doubles) -> Doubles:
    if centre_K.shape != units_NK.shape[1:]:
        raise ShapeError(f"The centre has shape {centre_K.shape}, not {units_NK.shape[1:]}.")
    return np.asarray(units_NK - centre_K, np.float64)


def _refuse_other_shape(mapped_NK: Table, student_NK: Table) -> None:
    if mapped_NK.shape != student_NK.shape:
        raise ShapeError(
            f"Targets {mapped_NK.shape} and student {student_NK.shape} differ in shape."
        )


def _p5(cosines_N: Doubles) -> float:
    return float(np.quantile(cosines_N, 0.05))
