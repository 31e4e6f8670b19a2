"""The tables of the method benchmark, as Markdown."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from _datasets import BATCH, STUDENT_SIZE, TEACHER_SIZE, VIEWS, WIDTH
from _method_variants import ABLATIONS, METHODS
from scipy import stats

from tintem_core.training.config import TrainingConfig

COLUMNS = {
    "r2": "R²",
    "pearson": "Pearson, test",
    "pearson_all": "Pearson, test + OOD",
    "overlap": "overlap@10",
    "knn": "kNN accuracy",
    "auroc": "OOD AUROC",
    "fpr95": "OOD FPR95 ↓",
    "same_photo": "same photo R@1",
    "shared_overlap": "shared overlap@10",
    "defects": "defects AUROC",
}
OURS = "tintem"
TITLES = {
    "elpv": "Solar cells (elpv)",
    "textiles": "Textiles",
    "foods": "Foods",
    "tintem": "TinTeM",
    "cospress": "CosPress as published",
    "proteus": "Proteus",
    "linear head, cosine": "linear head, cosine loss",
}
BOUNDS = {
    "teacher": "*teacher*",
    "mapped teacher": "*mapped teacher, what TinTeM is asked for*",
    "chance": "*constant answer, chance*",
}
Row = dict[str, Any]


def tables(results: dict[str, Any]) -> str:
    """Write the results as Markdown: mean ± half of the 95% interval (Student's t, over seeds)."""
    rows, budget = results["rows"], results["budget"]
    lines = ["# TinTeM against its baselines", "", *_introduction(results)]
    sets = dict.fromkeys((row["dataset"], row["strange"]) for row in rows)
    for title, variants, seeds in (
        ("", METHODS, budget["seeds"]),
        ("what the terms and settings are worth", ABLATIONS, budget["ablation_seeds"]),
    ):
        for dataset, strange in sets:
            mine = [r for r in rows if (r["dataset"], r["strange"]) == (dataset, strange)]
            if any(row["variant"] in variants for row in mine):
                heading = ": ".join(filter(None, (TITLES.get(dataset, dataset), title)))
                lines += ["", f"## {heading}", ""]
                lines += _section(mine, strange, variants, seeds)
    return "\n".join(lines) + "\n"


def _introduction(results: dict[str, Any]) -> list[str]:
    budget, machine, training = results["budget"], results["provenance"], TrainingConfig()
    taken = [r["seconds"] for r in results["rows"] if "seconds" in r and r["subject"] == "student"]
    steps = budget["epochs"] * budget["steps_per_epoch"]
    few = "" if budget["images"] is None else (
        f"**A smoke run on about {budget['images']} photos of each set: its numbers mean nothing.**"
    )  # fmt: skip
    return [
        *([few, ""] if few else []),
        f"Equal budgets: the student test_resnet at {STUDENT_SIZE} px, the teacher "
        f"EfficientNet-Lite0 (ImageNet) at {TEACHER_SIZE} px, {WIDTH} numbers per embedding, "
        f"{steps} steps of {BATCH} images. All methods see the same images: {VIEWS} cached light "
        f"views of each training photo, in {training.evaluation_view:.0%} of the epochs its "
        f"evaluation view instead, and {training.support:.0%} of every batch are drawn support "
        "images. Only the objective or the mapping differs. `supervised` alone has the labels; the "
        "support images have none, so its batches are photos throughout. CosPress as published "
        "learns its mapping together with the student: SNE, LayerNorm + Linear, random start; its "
        "term over patch tokens is left out, as everywhere here. "
        "Photos of the test split were never trained on.",
        "",
        "A seed stands for initial weights and order of the data. **±** is half of the 95% "
        "interval of the mean over seeds (Student's t). **Δ** is the difference to TinTeM, paired "
        "by seed, with its own 95% interval; it is bold where the interval excludes 0, which about "
        "one in twenty does where there is nothing. For FPR95 lower is better.",
        "",
        "*R²*: share of the variance of the target (unit vectors, test photos) that is explained: "
        "of the mapped teacher for TinTeM and CosPress, each its own mapping, of the teacher "
        "through a head. *Pearson*: of all pairwise cosines, student against teacher. "
        "*overlap@10*: neighbours of the teacher found. *OOD*: the photos of another data set "
        "against the test photos, by the cosine to the nearest training photo; *defects*: test "
        "photos with defects against those without, by the cosine to the nearest training photo "
        "without. *same photo R@1*, *shared overlap@10*: the student asks an index of (mapped) "
        "teacher embeddings of the test photos for the photo itself, and for its neighbours by the "
        "teacher. *Through its head*: the embedding of a baseline that lives only in training and "
        "is as wide as the teacher's; its own embedding shares no space with the teacher, hence –. "
        "*Constant answer, chance*: R² and kNN of one answer to all photos, otherwise what "
        "guessing reaches.",
        "",
        f"{len(taken)} trainings took {np.median(taken) if taken else 0:.0f} s each (median, "
        f"measuring included), one thread each, {results['processes']} side by side on "
        f"{machine['cores']} cores ({machine['machine']}, Python {machine['python']}, torch "
        f"{machine['packages']['torch']}), {machine['created'][:10]}.",
    ]


def _section(rows: list[Row], strange: str, variants: Iterable[str], seeds: int) -> list[str]:
    """Write one table, TinTeM first, with as many seeds as every line has."""
    wanted = [OURS, *(name for name in variants if name != OURS)]
    trained = [row for row in rows if row["variant"] in wanted and row["seed"] < seeds]
    done = {name: {r["seed"] for r in trained if r["variant"] == name} for name in wanted}
    columns = [c for c in COLUMNS if any(c in row for row in rows)]
    photos = next(row["photos"] for row in rows if row["variant"] == "bounds")
    said = (
        f"{photos['train']:,} photos to learn from, {photos['test']:,} to measure on; out of "
        f"distribution: {photos['strange']:,} of {TITLES.get(strange, strange).lower()}."
    )
    if all(len(found) == seeds for found in done.values()):
        said += f" {seeds} seed{'s' * (seeds > 1)}."
    else:
        counts = ", ".join(f"{TITLES.get(n, n)} {len(found)}" for n, found in done.items())
        said += f" **Not complete**, of {seeds} seed{'s' * (seeds > 1)} there are so far: {counts}."
    lines = [said, "", "| | " + " | ".join(COLUMNS[c] for c in columns) + " |"]
    lines += ["|---" * (len(columns) + 1) + "|"]

    def add(title: str, cells: Iterable[str]) -> None:
        lines.append(f"| {title} | " + " | ".join(cells) + " |")

    for subject, title in BOUNDS.items():
        found = [r for r in rows if (r["variant"], r["subject"]) == ("bounds", subject)]
        add(title, (_number(found[0][c]) if c in found[0] else "–" for c in columns))
    ours = _by_seed(trained, OURS, "student")
    for name in wanted:
        for subject in ("student", "head"):
            mine = _by_seed(trained, name, subject)
            if not mine:
                continue
            title = TITLES.get(name, name) + (", through its head" if subject == "head" else "")
            add(title, (cell([r[c] for r in mine.values() if c in r]) for c in columns))
            shared = sorted(mine.keys() & ours.keys())
            if name != OURS and shared:
                add("Δ to TinTeM", (
                    difference([mine[s][c] - ours[s][c] for s in shared if c in mine[s]])
                    for c in columns
                ))  # fmt: skip
    return lines


def _by_seed(rows: list[Row], variant: str, subject: str) -> dict[int, Row]:
    return {r["seed"]: r for r in rows if (r["variant"], r["subject"]) == (variant, subject)}


def cell(values: list[float], digits: int = 3) -> str:
    """Write the mean over seeds, ± half of its 95% interval where there are several."""
    if not values:
        return "–"
    mean = _number(float(np.mean(values)), digits)
    return mean if len(values) < 2 else f"{mean} ± {_half_interval(values):.{digits}f}"


def difference(values: list[float], digits: int = 3) -> str:
    """Write the mean of paired differences with its 95% interval, bold where it excludes 0."""
    if not values:
        return "–"
    mean = float(np.mean(values))
    written = f"{round(mean, digits) + 0.0:+.{digits}f}".replace("-", "−")
    if len(values) < 2:
        return written
    half = _half_interval(values)
    written += f" ± {half:.{digits}f}"
    return f"**{written}**" if abs(mean) > half else written


def _half_interval(values: list[float]) -> float:
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(stats.t.ppf(0.975, len(values) - 1)) * spread


def _number(value: float, digits: int = 3) -> str:
    # Adding 0 makes a rounded -0 a 0.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")
