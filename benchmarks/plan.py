"""What `tintem plan` announces against what the run then takes, stage by stage.

The plan is made first, on an empty root, then the run; both by this process, so that a machine
that is busy is as busy for both. Needs the demo packages, unless a config is given.
Run: python benchmarks/plan.py --help
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.config.demo import prepare
from flows.config.load import load_config
from flows.config.run import RunConfig
from flows.config.variants import variant
from flows.planning.plan import plan
from flows.provenance import provenance
from flows.stages.pipeline import Pipeline

# Of the plan's times, and the stages of the run that each of them announces.
STAGES = {
    "extraction": ("all_caches",),
    "mapping": ("mapped",),
    "training": ("trained",),
    "in_all": ("indexed", "all_caches", "mapped", "trained"),
}
WANTED = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, help="a run's config; none: the quickstart's")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(options.config or prepare(Path(folder)))
        rows = compare(variant(config, {"root": f"{folder}/root"}))
    text = table(rows)
    options.results.mkdir(parents=True, exist_ok=True)
    content = {"rows": rows, "provenance": provenance()}
    (options.results / "plan.json").write_text(json.dumps(content, indent=1))
    (options.results / "plan.md").write_text(text)
    print(text)


def compare(config: RunConfig) -> list[dict[str, Any]]:
    """Plan a run, then run it: by stage the announced seconds and those it took."""
    planned = plan(config)
    run, took = Pipeline(config), {}
    # Tokens that are kept mapped are extracted after the mapping is there.
    for stage in ("indexed", "extracted", "mapped", "all_caches", "trained"):
        started = time.perf_counter()
        getattr(run, stage)
        took[stage] = time.perf_counter() - started
    took["all_caches"] += took.pop("extracted")
    rows = []
    for name, stages in STAGES.items():
        seconds = sum(took[stage] for stage in stages)
        announced = asdict(getattr(planned, name))
        ratio = seconds / announced["value"] if announced["value"] else None
        rows.append({"stage": name, **announced, "took": seconds, "ratio": ratio})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Write the stages with their ratio, Markdown."""
    machine = provenance()
    lines = [
        "# The plan against its run",
        "",
        f"{machine['cores']} cores, {machine['machine']}, GPU: {machine['gpu'] or 'none'}, "
        f"{machine['created'][:10]}. Wanted: between 1/{WANTED:g} and {WANTED:g} times the plan.",
        "",
        "| stage | planned, s | error bar, s | took, s | took / planned |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(
            f"| {row['stage'].replace('_', ' ')} | {row['value']:.1f} | {row['low']:.1f} to "
            f"{row['high']:.1f} | {row['took']:.1f} | {ratio} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
