"""Nearest neighbours by cosine: search, kNN classification, overlap of neighbourhoods.

Legend: N bank images, M queries, K width, k neighbours, C classes. Arrays are NumPy.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tintem_core.errors import InputError, ShapeError
from tintem_core.evaluation.cosine import Floats, unit_rows

Ints = NDArray[np.int64]
KNN_TEMPERATURE = 0.07
KNN_KS = (10, 20, 100, 200)
NEIGHBOURS = 10
# Cosines of so many queries and bank rows at a time, 16 MiB of float32: they are still in the
# processor's cache when the highest are picked, and memory stays flat however large the bank is.
_QUERY_ROWS, _BANK_ROWS = 512, 8192


def nearest(
    bank_NK: NDArray[np.floating],
    query_MK: NDArray[np.floating],
    k: int,
    *,
    exclude_self: bool = False,
) -> tuple[Floats, Ints]:
    """The k bank rows with the highest cosine to every query, the nearest first.

    Memory is O(M k + 16 MiB) beyond the two tables; the search is exact.

    Args:
        bank_NK: shape (N, K).
        query_MK: shape (M, K).
        k: neighbours, 1 <= k <= N (N - 1 with `exclude_self`).
        exclude_self: query i *is* bank row i (the same table twice) and is not its own neighbour.

    Returns:
        Cosines float32 (M, k) and bank rows int64 (M, k).

    Raises:
        ShapeError: widths differ.
        InputError: the bank has fewer than k rows.
        DegenerateError: a zero or non-finite row.
    """
    bank, query = unit_rows(bank_NK, "the bank"), unit_rows(query_MK, "the queries")
    if bank.shape[1] != query.shape[1]:
        raise ShapeError(f"The bank is {bank.shape[1]} wide, the queries {query.shape[1]}.")
    if exclude_self and len(bank) != len(query):
        raise ShapeError("exclude_self needs the same table as bank and as queries.")
    available = len(bank) - int(exclude_self)
    if not 1 <= k <= available:
        raise InputError(
            f"{k} neighbours were asked of a bank that offers {available}; "
            f"choose k between 1 and {available}."
        )
    # Only here: what only names a score, as a config does, needs no torch.
    import torch

    cosines = np.empty((len(query), k), np.float32)
    rows = np.empty((len(query), k), np.int64)
    for start in range(0, len(query), _QUERY_ROWS):
        part_MK = torch.from_numpy(query[start : start + _QUERY_ROWS])
        best_Mk = torch.empty((len(part_MK), 0))
        best_rows_Mk = torch.empty((len(part_MK), 0), dtype=torch.int64)
        for first in range(0, len(bank), _BANK_ROWS):
            cos_MN = part_MK @ torch.from_numpy(bank[first : first + _BANK_ROWS]).T
            if exclude_self:
                cos_MN.diagonal(start - first).fill_(-torch.inf)
            top = cos_MN.topk(min(k, cos_MN.shape[1]), dim=1)
            found_Mk = torch.cat([best_Mk, top.values], dim=1)
            found_rows_Mk = torch.cat([best_rows_Mk, top.indices + first], dim=1)
            best_Mk, places_Mk = found_Mk.topk(min(k, found_Mk.shape[1]), dim=1)
            best_rows_Mk = found_rows_Mk.gather(1, places_Mk)
        stop = start + len(part_MK)
        cosines[start:stop], rows[start:stop] = best_Mk.numpy(), best_rows_Mk.numpy()
    return cosines, rows


def vote(
    cosines_Mk: Floats,
    labels_Mk: NDArray[np.integer],
    classes: int,
    temperature: float = KNN_TEMPERATURE,
) -> tuple[Floats, Ints]:
    """Cosine-weighted votes of the neighbours: weight exp(cos / T), shares sum to 1.

    Source: the DINO / DINOv2 kNN protocol. A tie goes to the smallest class number.

    Returns:
        Shares float32 (M, C) and predicted classes int64 (M,).
    """
    weights = np.exp((cosines_Mk.astype(np.float64) - cosines_Mk[:, :1]) / temperature)
    cells = np.arange(len(labels_Mk))[:, None] * classes + labels_Mk
    scores = np.bincount(cells.ravel(), weights.ravel(), len(labels_Mk) * classes)
    scores = scores.reshape(len(labels_Mk), classes)
    scores = scores / scores.sum(axis=1, keepdims=True)
    return scores.astype(np.float32), scores.argmax(axis=1).astype(np.int64)


def knn_predict(
    bank_NK: NDArray[np.floating],
    labels_N: NDArray[np.integer],
    query_MK: NDArray[np.floating],
    k: int,
    temperature: float = KNN_TEMPERATURE,
    classes: int | None = None,
) -> tuple[Floats, Ints]:
    """kNN classification with votes weighted by exp(cos / temperature).

    Args:
        bank_NK: labelled embeddings, shape (N, K).
        labels_N: classes 0..C-1, shape (N,).
        query_MK: embeddings to classify, shape (M, K).
        k: neighbours that vote.
        temperature: of the votes; 0.07 in DINOv2.
        classes: C; None takes it from the labels.

    Returns:
        Vote shares float32 (M, C), rows sum to 1, and predictions int64 (M,).

    Raises:
        ShapeError, InputError, DegenerateError: as `nearest`, and for labels outside 0..C-1.
    """
    known = _class_count(labels_N, len(bank_NK), classes)
    cosines, rows = nearest(bank_NK, query_MK, k)
    return vote(cosines, labels_N[rows], known, temperature)


def knn_accuracy(
    bank_NK: NDArray[np.floating],
    labels_N: NDArray[np.integer],
    query_MK: NDArray[np.floating],
    query_labels_M: NDArray[np.integer],
    ks: Sequence[int] = KNN_KS,
    temperature: float = KNN_TEMPERATURE,
) -> dict[int, float]:
    """Accuracy of kNN for several k from one search; a k beyond the bank is left out.

    Returns:
        {k: share of right predictions}.

    Raises:
        InputError: no k fits the bank.
    """
    if len(query_labels_M) != len(query_MK):
        raise ShapeError(f"{len(query_MK)} queries came with {len(query_labels_M)} labels.")
    known = _class_count(labels_N, len(bank_NK), None)
    fitting = [k for k in ks if k <= len(bank_NK)] or [min(ks)]
    cosines, rows = nearest(bank_NK, query_MK, max(fitting))
    labels_Mk = labels_N[rows]
    return {
        k: float(
            np.mean(vote(cosines[:, :k], labels_Mk[:, :k], known, temperature)[1] == query_labels_M)
        )
        for k in fitting
    }


def neighbour_overlap(
    first_ND: NDArray[np.floating], second_NK: NDArray[np.floating], k: int = 10
) -> NDArray[np.float64]:
    """Share of the k nearest neighbours that two embeddings of the same images agree on.

    Args:
        first_ND, second_NK: row i of both is the same image; widths may differ.
        k: neighbours; an image is never its own neighbour.

    Returns:
        One share in [0, 1] per image, float64 (N,); its mean is neighbour overlap@k.
    """
    if len(first_ND) != len(second_NK):
        raise ShapeError(f"{len(first_ND)} and {len(second_NK)} rows are not the same images.")
    _, ours = nearest(first_ND, first_ND, k, exclude_self=True)
    _, theirs = nearest(second_NK, second_NK, k, exclude_self=True)
    return shared_share(ours, theirs)


def telling_neighbours(others: int) -> int:
    """How many nearest neighbours two lists over so many images are compared by.

    10, or as many as chance shares at most half of: lists of k out of n images, drawn at random,
    have k / n in common. At least 1.
    """
    return max(1, min(NEIGHBOURS, others // 2))


def shared_share(first_Nk: Ints, second_Nk: Ints) -> NDArray[np.float64]:
    """Share of entries two neighbour lists have in common, row by row: float64 (N,)."""
    both = np.sort(np.concatenate([first_Nk, second_Nk], axis=1), axis=1)
    return np.asarray((both[:, 1:] == both[:, :-1]).sum(axis=1) / first_Nk.shape[1], np.float64)


def _class_count(labels_N: NDArray[np.integer], rows: int, classes: int | None) -> int:
    if labels_N.shape != (rows,):
        raise ShapeError(f"{rows} bank rows came with labels of shape {labels_N.shape}.")
    return count_classes(labels_N, classes)


def count_classes(labels_N: NDArray[np.integer], classes: int | None) -> int:
    """C: as given, or one more than the highest label; InputError for labels outside 0..C-1."""
    highest = int(labels_N.max()) + 1
    known = highest if classes is None else classes
    if labels_N.min() < 0 or highest > known:
        raise InputError(
            f"Labels run from {labels_N.min()} to {highest - 1}, but must lie in 0..{known - 1}; "
            "number the classes from 0."
        )
    return known


_NEAR, _PAIRS = 0.05, 1000


def near_copies(bank_NK: NDArray[np.floating], query_MK: NDArray[np.floating]) -> int:
    """How many queries lie so near to a train embedding that they may be the same picture.

    That is, at most 5% as far as two images lie apart in the median (1 - cosine, over at most 1,000
    of each side), whatever the angles that the model uses.

    Raises:
        InputError, ShapeError, DegenerateError: as `nearest`.
    """
    cosines_M = nearest(bank_NK, query_MK, 1)[0][:, 0]
    some_bank, some_queries = (
        side[:: -(-len(side) // _PAIRS)].astype(np.float64) for side in (bank_NK, query_MK)
    )
    some_bank, some_queries = (
        side / np.linalg.norm(side, axis=1, keepdims=True) for side in (some_bank, some_queries)
    )
    usual = float(np.median(1 - some_queries @ some_bank.T))
    return int((1 - cosines_M <= _NEAR * usual).sum())
