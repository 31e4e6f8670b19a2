"""Mutations of the metrics."""

from tests.mutations.mutation import Mutation

_NEIGHBOURS = "tintem_core/evaluation/neighbours.py"
_OOD = "tintem_core/evaluation/ood.py"
_FAITHFULNESS = "tintem_core/evaluation/faithfulness.py"
_TO_MAPPED = "tintem_core/evaluation/to_mapped.py"
_FEW_SHOT = "tintem_core/evaluation/few_shot.py"
_PROBES = "tintem_core/evaluation/probes.py"
_BOOTSTRAP = "tintem_core/evaluation/bootstrap.py"
_NEIGHBOUR_TESTS = ("tests/tintem_core/evaluation/test_neighbours.py",)
_OOD_TESTS = ("tests/tintem_core/evaluation/test_ood.py",)
_PAIR_TESTS = ("tests/tintem_core/evaluation/test_pairs.py",)
_FAITHFULNESS_TESTS = ("tests/tintem_core/evaluation/test_faithfulness.py",)
_TO_MAPPED_TESTS = ("tests/tintem_core/evaluation/test_to_mapped.py",)
_FEW_SHOT_TESTS = ("tests/tintem_core/evaluation/test_few_shot.py",)
_PROBE_TESTS = ("tests/tintem_core/evaluation/test_probes.py",)

METRICS = (
    Mutation(
        "knn-temperature", _NEIGHBOURS,
        "KNN_TEMPERATURE = 0.07",
        "KNN_TEMPERATURE = 0.7",
        "kNN accuracies are not those of the DINOv2 protocol.",
        _NEIGHBOUR_TESTS,
    ),
    Mutation(
        "knn-temperature-multiplies", _NEIGHBOURS,
        "cosines_Mk[:, :1]) / temperature)",
        "cosines_Mk[:, :1]) * temperature)",
        "All neighbours vote alike.",
        _NEIGHBOUR_TESTS,
    ),
    Mutation(
        "self-match", _NEIGHBOURS,
        "cos_MN.diagonal(start - first).fill_(-torch.inf)",
        "cos_MN.diagonal(0).fill_(-torch.inf)",
        "Beyond the first block an image is its own nearest neighbour.",
        _NEIGHBOUR_TESTS,
    ),
    Mutation(
        "neighbours-of-another-block", _NEIGHBOURS,
        "top.indices + first]",
        "top.indices]",
        "Of a large bank, other images are named than the nearest ones.",
        _NEIGHBOUR_TESTS,
    ),
    Mutation(
        "overlap-counts-itself", _NEIGHBOURS,
        "_, theirs = nearest(second_NK, second_NK, k, exclude_self=True)",
        "_, theirs = nearest(second_NK, second_NK, k)",
        "One of the k neighbours of the student is the image itself.",
        _NEIGHBOUR_TESTS,
    ),
    Mutation(
        "overlap-k", _NEIGHBOURS,
        "min(NEIGHBOURS, others // 2)",
        "min(NEIGHBOURS, others)",
        "Of few images all are neighbours: the overlap is 1 whatever the student does.",
        _FAITHFULNESS_TESTS,
    ),
    Mutation(
        "overlap-chance", _FAITHFULNESS,
        "chance = k / (images - 1)",
        "chance = k / images",
        "The report compares the overlap with less than chance.",
        _FAITHFULNESS_TESTS,
    ),
    Mutation(
        "cka-centre", _FAITHFULNESS,
        "rows -= rows.mean(axis=0)",
        "rows -= rows.mean()",
        "CKA is not centred feature by feature: any two sets of images look alike.",
        _FAITHFULNESS_TESTS,
    ),
    Mutation(
        "pearson-interval-centre", _FAITHFULNESS,
        "(xy - mean_x * mean_y)",
        "xy",
        "The interval of a correlation is that of another number.",
        _PAIR_TESTS,
    ),
    Mutation(
        "spearman-ties", "tintem_core/evaluation/pairs.py",
        "(np.cumsum(counts) - (counts - 1) / 2)",
        "np.cumsum(counts)",
        "Tied scores take their highest rank instead of the mean.",
        _PAIR_TESTS,
    ),
    Mutation(
        "r2-denominator", _TO_MAPPED,
        "apart_NK = mapped - mapped.mean(axis=0)",
        "apart_NK = mapped",
        "R² is against zero instead of the mean target: a constant answer looks good.",
        _TO_MAPPED_TESTS,
    ),
    Mutation(
        "r2-mean-of-the-draw", _TO_MAPPED,
        'counts_RN @ spread_N / count - np.einsum("rk,rk->r", mean_RK, mean_RK)',
        "counts_RN @ spread_N / count",
        "The interval of R² is shifted, as draws have no mean of their own.",
        _TO_MAPPED_TESTS,
    ),
    Mutation(
        "r2-fit-of-the-draws-mean", _TO_MAPPED,
        "counts_RN @ missed_N / count * (1 - 1 / count)",
        "counts_RN @ missed_N / count",
        "The interval of R² lies too low, as a draw's mean fits the draw.",
        _TO_MAPPED_TESTS,
    ),
    Mutation(
        "centred-measure-sign", _TO_MAPPED,
        "np.asarray(units_NK - centre_K, np.float64)",
        "np.asarray(units_NK + centre_K, np.float64)",
        "The centred cosine is near 1 whatever the student answers.",
        _TO_MAPPED_TESTS,
    ),
    Mutation(
        "bootstrap-pairs-torn", _BOOTSTRAP,
        "picked = [a[rows] for a in arrays]",
        "picked = [a[rng.permutation(rows)] for a in arrays]",
        "Answers are compared with those of other images.",
        _OOD_TESTS,
    ),
    Mutation(
        "interval-level", _BOOTSTRAP,
        "[(1 - level) / 2, (1 + level) / 2]",
        "[1 - level, level]",
        "Intervals that are called 95 % cover 90 %.",
        _OOD_TESTS,
    ),
    Mutation(
        "auroc-sign", _OOD,
        "return float((below.sum() + not_above.sum())",
        "return 1 - float((below.sum() + not_above.sum())",
        "The better a model tells outliers, the worse it looks.",
        _OOD_TESTS,
    ),
    Mutation(
        "auroc-ties", _OOD,
        'below = np.searchsorted(ranked, ours, "left")',
        'below = np.searchsorted(ranked, ours, "right")',
        "A score that is the same for all images reaches 1.",
        _OOD_TESTS,
    ),
    Mutation(
        "fpr95-direction", _OOD,
        "np.mean(theirs >= threshold)",
        "np.mean(theirs <= threshold)",
        "FPR95 counts the outliers that are told.",
        _OOD_TESTS,
    ),
    Mutation(
        "fpr95-of-the-other-definition", _OOD,
        "np.mean(ours <= threshold)",
        "np.mean(ours >= threshold)",
        "OpenOOD's FPR95 counts the photos that are accepted.",
        _OOD_TESTS,
    ),
    Mutation(
        "fpr95-rank", _OOD,
        "math.ceil(0.95 * count - 1e-9) - 1",
        "math.ceil(0.90 * count - 1e-9) - 1",
        "FPR95 is FPR90.",
        _OOD_TESTS,
    ),
    Mutation(
        "aupr-positive-class", _OOD,
        "np.mean(right / (right + wrong))",
        "np.mean(wrong / (right + wrong))",
        "The average precision is that of the wrong class.",
        _OOD_TESTS,
    ),
    Mutation(
        "false-alarm-rate", _OOD,
        "math.floor(false_alarm_rate * len(ours) + 1e-9)",
        "math.ceil(false_alarm_rate * len(ours) - 1e-9)",
        "A device takes more of its usual photos for strange than was said.",
        _OOD_TESTS,
    ),
    Mutation(
        "kth-nearest", _OOD,
        "nearest(bank.embeddings, query_MK, bank.k)[0][:, bank.k - 1]",
        "nearest(bank.embeddings, query_MK, bank.k)[0][:, 0]",
        "The setting of k has no effect.",
        _OOD_TESTS,
    ),
    Mutation(
        "mahalanobis-farthest-class", _OOD,
        "-squared(unit_rows(query_MK)).min(axis=1)",
        "-squared(unit_rows(query_MK)).max(axis=1)",
        "An image counts as strange by the class that it is least like.",
        _OOD_TESTS,
    ),
    Mutation(
        "mahalanobis-unlabelled-class", _OOD,
        "told = bank.labels >= 0",
        "told = bank.labels >= -1",
        "Images without a label form a class of their own.",
        _OOD_TESTS,
    ),
    Mutation(
        "few-shot-sees-the-test-set", _FEW_SHOT,
        "_directions(test_MK - centre)",
        "_directions(test_MK - test_MK.mean(axis=0, keepdims=True))",
        "The accuracy of an image depends on the others that it is tested with.",
        _FEW_SHOT_TESTS,
    ),
    Mutation(
        "few-shot-draws-twice", _FEW_SHOT,
        "rng.choice(own, shots, replace=False)",
        "rng.choice(own, shots, replace=True)",
        "Accuracy with ten labelled images is measured with fewer.",
        _FEW_SHOT_TESTS,
    ),
    Mutation(
        "probe-fits-what-is-held-out", _PROBES,
        "return np.setdiff1d(np.arange(len(labels_N)), held_rows), held_rows",
        "return np.arange(len(labels_N)), held_rows",
        "The probe that remembers most is chosen, not the one that generalises.",
        _PROBE_TESTS,
    ),
    Mutation(
        "probe-chosen-where-it-was-fitted", _PROBES,
        "{p.choice: p.accuracy(train_NK[held_rows], labels_N[held_rows]) for p in probes}",
        "{p.choice: p.accuracy(train_NK[fit_rows], labels_N[fit_rows]) for p in probes}",
        "The learning rate of the probe is chosen on the photos it was fitted on.",
        _PROBE_TESTS,
    ),
    Mutation(
        "mce-of-sums", "tintem_core/evaluation/robustness.py",
        "np.mean(wrong_NC.sum(axis=0) / of_reference)",
        "wrong_NC.sum() / of_reference.sum()",
        "Corruptions under which everybody errs decide on mCE alone.",
        ("tests/tintem_core/evaluation/test_robustness.py",),
    ),
    Mutation(
        "iou-union", "tintem_core/evaluation/segmentation.py",
        "total.sum(axis=0) + total.sum(axis=1) - np.diag(total)",
        "total.sum(axis=0) + total.sum(axis=1)",
        "A perfect segmentation has an mIoU of one half.",
        ("tests/tintem_core/evaluation/test_segmentation.py",),
    ),
    Mutation(
        "shared-index-reach", "tintem_core/evaluation/shared_space.py",
        "reach = min(NEIGHBOURS + 1, count)",
        "reach = min(NEIGHBOURS, count)",
        "A query that finds itself has one neighbour less to agree on.",
        ("tests/tintem_core/evaluation/test_shared_space.py",),
    ),
    Mutation(
        "what-limits-a-student", "tintem_core/evaluation/limits.py",
        "self.r2_train - self.r2_test > _GAP",
        "self.r2_test - self.r2_train > _GAP",
        "Somebody who needs more photos is told to take a larger student.",
        ("tests/tintem_core/evaluation/test_limits.py",),
    ),
)  # fmt: skip
