"""Whether a student can stand in for its teacher in an index that the teacher filled.

The index holds mapped-teacher embeddings, the queries are the student's: only a student trained in
the mapped space, or a head trained into the teacher's, can be asked this.
Legend: N images, M queries, D teacher width, K width of the shared space, k neighbours.
NumPy in and out.
"""

import numpy as np
from numpy.typing import NDArray

from tintem_core.errors import ShapeError
from tintem_core.evaluation.bootstrap import Draws, MetricRow, mean_row
from tintem_core.evaluation.neighbours import (
    KNN_TEMPERATURE,
    NEIGHBOURS,
    knn_predict,
    nearest,
    shared_share,
    telling_neighbours,
    vote,
)

Table = NDArray[np.floating]
RECALLS = (1, 10)


def shared_space(
    teacher_ND: Table,
    index_NK: Table,
    query_NK: Table,
    *,
    seed: int,
    resamples: int = 1000,
) -> list[MetricRow]:
    """Ask an index of N images for the neighbours of the student's embedding of each of them.

    `same_photo_at_1`, `same_photo_at_10`: share of images found themselves among the nearest k
    (chance k / N). `shared_overlap_10`: share of an image's 10 nearest neighbours by the teacher
    among the 10 nearest in the index, itself left out of both (chance k / (N - 1)). Where so few
    images are there that chance would be above 1/2, the first two say little and are left out, and
    the k of the third shrinks, and so does its name.

    Args:
        teacher_ND: teacher embeddings in its full space, shape (N, D).
        index_NK: mapped-teacher embeddings of the same images, shape (N, K).
        query_NK: student embeddings of the same images, shape (N, K).
        seed: of the bootstrap over images.
        resamples: bootstrap draws.

    Raises:
        ShapeError: other images or widths.
        DegenerateError: a zero or non-finite row.
    """
    count = len(index_NK)
    if len(teacher_ND) != count or index_NK.shape != query_NK.shape:
        raise ShapeError(
            f"The index {index_NK.shape}, the queries {query_NK.shape} and the teacher's "
            f"{len(teacher_ND)} rows must be of the same images, and the first two as wide."
        )
    settings: Draws = {"seed": seed, "resamples": resamples}
    # One more than is asked for: a query may find itself, which is no neighbour.
    reach = min(NEIGHBOURS + 1, count)
    _, found_Nk = nearest(index_NK, query_NK, reach)
    is_self_Nk = found_Nk == np.arange(count)[:, None]
    rows = [
        mean_row(f"same_photo_at_{k}", is_self_Nk[:, :k].any(axis=1), chance=k / count, **settings)
        for k in RECALLS
        if 2 * k <= count
    ]
    # One other image is everybody's neighbour.
    if count > 2:
        neighbours = telling_neighbours(count - 1)
        _, wanted_Nk = nearest(teacher_ND, teacher_ND, neighbours, exclude_self=True)
        # Itself last, all others still the nearest first.
        order = np.argsort(is_self_Nk, axis=1, kind="stable")[:, :neighbours]
        others_Nk = np.take_along_axis(found_Nk, order, axis=1)
        shares = shared_share(wanted_Nk, others_Nk)
        chance = neighbours / (count - 1)
        name = f"shared_overlap_{neighbours}"
        rows.append(mean_row(name, shares, chance=chance, **settings))
    return rows


def shared_knn(
    index_NK: Table,
    labels_N: NDArray[np.integer],
    query_MK: Table,
    query_labels_M: NDArray[np.integer],
    k: int,
    *,
    seed: int,
    resamples: int = 1000,
) -> MetricRow:
    """`shared_knn`: kNN accuracy of student queries among labelled mapped-teacher embeddings.

    Args:
        index_NK: mapped-teacher embeddings of the train images, shape (N, K).
        labels_N: their classes 0..C-1, shape (N,).
        query_MK: student embeddings of the test images, shape (M, K).
        query_labels_M: their classes, shape (M,); one that no train image has counts as missed.
        k: neighbours that vote, see `neighbours.knn_predict`; at most all of the index.
        seed: of the bootstrap over queries.
        resamples: bootstrap draws.

    Raises:
        ShapeError, InputError, DegenerateError: as `neighbours.knn_predict`.
    """
    if len(query_MK) != len(query_labels_M):
        raise ShapeError(f"{len(query_MK)} queries came with {len(query_labels_M)} labels.")
    _, predicted = knn_predict(index_NK, labels_N, query_MK, min(k, len(index_NK)))
    return mean_row("shared_knn", predicted == query_labels_M, seed=seed, resamples=resamples)


def shared_knn_of_others(
    index_NK: Table,
    query_NK: Table,
    labels_N: NDArray[np.integer],
    k: int,
    *,
    seed: int,
    resamples: int = 1000,
) -> MetricRow:
    """`shared_knn`: kNN accuracy of queries among the other images of an index.

    Args:
        index_NK: embeddings by one model, shape (N, K).
        query_NK: of the same images by another one in the same space, shape (N, K).
        labels_N: their classes 0..C-1, shape (N,).
        k: neighbours that vote; at most all others. Chance is the share of the most frequent class.
        seed: of the bootstrap over images.
        resamples: bootstrap draws.

    Raises:
        ShapeError, InputError, DegenerateError: as `neighbours.nearest`.
    """
    reach = min(k, len(index_NK) - 1)
    cosines_Nk, found_Nk = nearest(index_NK, query_NK, reach, exclude_self=True)
    _, predicted = vote(cosines_Nk, labels_N[found_Nk], int(labels_N.max()) + 1, KNN_TEMPERATURE)
    chance = float(np.bincount(labels_N).max() / len(labels_N))
    return mean_row(
        "shared_knn", predicted == labels_N, seed=seed, resamples=resamples, chance=chance
    )
