"""The tables of the method benchmark, as Markdown."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from _datasets import COLUMNS, STUDENT_SIZE, TEACHER_SIZE, VIEWS, WIDTH
from scipy import stats


def tables(results: dict[str, Any], variants: Iterable[str]) -> str:
    """Write the results as Markdown: mean ± half of the 95% interval (Student's t, over seeds).

    Args:
        results: what was measured.
        variants: the order of the lines.
    """
    order = ["teacher", *variants]
    budget, rows = results["budget"], results["rows"]
    machine = results["provenance"]
    taken = [row["seconds"] for row in rows if row["space"] == "student" and "seconds" in row]
    lines = [
        "# TinTeM against its baselines",
        "",
        f"Equal budgets: test_resnet at {STUDENT_SIZE} px from EfficientNet-Lite0 (ImageNet) at "
        f"{TEACHER_SIZE} px, embedding width {WIDTH}, {VIEWS} cached views, {budget['epochs']} "
        f"epochs, {budget['seeds']} seeds (initial weights and data order); only the objective or "
        "the mapping differs. Photos of the test split were never trained on; labels were used by "
        "`supervised` alone. OOD: defects against normal photos, by the cosine to the nearest "
        "normal training photo.",
        "",
        "± is half of the 95% interval of the mean over seeds (Student's t). `through its head`: "
        "the embedding that the baseline throws away at export.",
        "",
        f"{len(taken)} trainings took {np.median(taken):.0f} s each (median), one on each of "
        f"{machine['cores']} cores ({machine['machine']}, torch {machine['packages']['torch']}), "
        f"{machine['created'][:10]}.",
    ]
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        mine = [row for row in rows if row["dataset"] == dataset and row["views"] == VIEWS]
        done = len({row["seed"] for row in mine if row["space"] != "teacher"})
        so_far = "" if done == budget["seeds"] else f" (only {done} seeds so far)"
        lines += ["", f"## {dataset}{so_far}", "", *_header("")]
        mine.sort(key=lambda row: order.index(row["variant"]))
        for variant, space in dict.fromkeys((row["variant"], row["space"]) for row in mine):
            title = f"{variant}, through its head" if space == "head" else variant
            found = [r for r in mine if (r["variant"], r["space"]) == (variant, space)]
            lines.append(_line(title, found))
        studied = [r for r in rows if (r["dataset"], r["variant"]) == (dataset, "tintem")]
        counts = sorted({row["views"] for row in studied})
        if len(counts) > 1:
            lines += ["", f"### {dataset}: number of cached views (tintem)", "", *_header("views")]
            for count in counts:
                is_fresh = count == budget["epochs"]
                title = f"{count} (a fresh one in every epoch)" if is_fresh else str(count)
                lines.append(_line(title, [r for r in studied if r["views"] == count]))
    return "\n".join(lines) + "\n"


def _header(first: str) -> list[str]:
    return [f"| {first} | " + " | ".join(COLUMNS.values()) + " |", "|---" * 7 + "|"]


def _line(title: str, rows: list[dict[str, Any]]) -> str:
    return f"| {title} | " + " | ".join(cell([r[c] for r in rows]) for c in COLUMNS) + " |"


def cell(values: list[float], digits: int = 3) -> str:
    """Write the mean over seeds, ± half of its 95% interval where there are several."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{np.mean(values):.{digits}f} ± {half:.{digits}f}"
