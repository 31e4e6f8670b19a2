"""TinTeM against its baselines: equal budgets, five seeds, three real data sets.

The same student sees the same cached views for the same number of steps; only the objective (and
the mapping) differs. Then, on the first data set, what the evaluation view and the support images
are worth. Stop it at any time: the next run goes on, and the table says how many seeds it holds.
Needs the demo packages, and npm for one of the data sets. Run: python benchmarks/method.py --help
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from _datasets import STRANGE, Budget, Material, Values, materials
from _method_results import Results
from _method_tables import COLUMNS, tables
from _method_variants import ABLATIONS, EPOCHS, METHODS, VARIANTS, WHITENING
from _students import Students

FULL = Budget(
    seeds=5, ablation_seeds=3, epochs=EPOCHS, steps_per_epoch=16, images=None, synthetic=1000
)
QUICK = Budget(seeds=2, ablation_seeds=1, epochs=4, steps_per_epoch=1, images=80, synthetic=20)


@dataclass(frozen=True)
class Job:
    """One student to train."""

    variant: str
    seed: int


def jobs_of(variants: Iterable[str], seeds: int) -> list[Job]:
    """Return all variants of one seed before the next seed: a part of a table is a fair one."""
    return [Job(variant, seed) for seed in range(seeds) for variant in variants]


def study(
    material: Material,
    jobs: list[Job],
    budget: Budget,
    results: Results,
    processes: int,
    write: Callable[[], None],
) -> None:
    """Train and measure what is missing on one data set, several students side by side."""
    place = {"dataset": material.data.name, "strange": material.strange}
    if not results.has(**place, variant="bounds"):
        photos = {name: len(rows) for name, rows in material.teacher.items()}
        results.add(material.bounds(), **place, variant="bounds", seed=0, photos=photos)
    missing = [job for job in jobs if not results.has(**place, **asdict(job))]
    if not missing:
        return
    students = Students(material, budget)
    # torch's own, so that all processes share the rendered pixels.
    context = torch.multiprocessing.get_context("spawn")
    with context.Pool(processes, begin, (students,)) as pool:
        for job, seconds, found in pool.imap_unordered(train_one, missing):
            results.add(found, **place, **asdict(job), seconds=seconds)
            own = found["student"]
            print(
                f"{material.data.name:>9} {job.variant:<31} seed {job.seed} {seconds:5.1f} s  "
                + "  ".join(f"{c} {own[c]:.3f}" for c in COLUMNS if c in own),
                flush=True,
            )
            write()


def begin(students: Students) -> None:
    """Be a process that trains students, with one thread: small ones gain little from more."""
    global STUDENTS
    torch.set_num_threads(1)
    STUDENTS = students


def train_one(job: Job) -> tuple[Job, float, dict[str, Values]]:
    """Return how long a student took, and what was measured of it, by subject."""
    started = time.monotonic()
    material = STUDENTS.material
    mapping, training = VARIANTS[job.variant]
    config = material.config_with(job.variant, mapping, {**training, "seed": job.seed})
    students = STUDENTS.trained(config, WHITENING.get(job.variant, 0.0))
    found = material.measured(config, students)
    return job, round(time.monotonic() - started, 1), found


STUDENTS: Students


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run: few photos, few steps")
    parser.add_argument("--datasets", nargs="+", choices=STRANGE, default=list(STRANGE),
                        help="train on these only; the first one has the ablations")  # fmt: skip
    parser.add_argument("--ablations", nargs="*", choices=STRANGE, metavar="DATASET",
                        help="the ablations on these data sets; none: on no one")  # fmt: skip
    parser.add_argument("--processes", type=int, default=2, help="students trained side by side")
    parser.add_argument("--folder", type=Path, default=Path("build/bench-method"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    budget, name = (QUICK, "method-quick") if options.quick else (FULL, "method")
    folder = (options.folder / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(folder / "results.json", budget)
    results.content["processes"] = options.processes
    # A smoke run's numbers mean nothing and stay out of the published ones.
    target = folder if options.quick else options.results
    target.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        (target / "method.md").write_text(tables(results.content))
        (target / "method.json").write_text(json.dumps(results.content, indent=1))

    found = {n: make for n, make in materials(folder, budget) if n in options.datasets}
    ablated = options.ablations if options.ablations is not None else list(found)[:1]
    # The comparison on all data sets comes first: it matters more than the ablations.
    plan = [(n, jobs_of(METHODS, budget.seeds)) for n in found]
    plan += [(n, jobs_of(ABLATIONS, budget.ablation_seeds)) for n in found if n in ablated]
    for dataset, jobs in plan:
        study(found[dataset](), jobs, budget, results, options.processes, write)
        write()
    print(tables(results.content))


if __name__ == "__main__":
    main()
