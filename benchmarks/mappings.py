"""How well each mapping keeps the angles between photos that it was not fitted on.

Every objective, start and head, on real data sets, several seeds: what decided the default,
together with the students of method.py. Needs the demo packages, and npm for one of the data sets.
Run: python benchmarks/mappings.py --help
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from _datasets import VIEWS, WIDTH, Material, Settings, materials
from _method_tables import cell
from method import FULL, QUICK

from flows.provenance import provenance

METRICS = {
    "pairwise_pearson": "Pearson",
    "pairwise_spearman": "Spearman",
    "mean_abs_cosine_error": "mean error of a cosine",
    "neighbour_overlap_10": "neighbour overlap@10",
    "orthogonality_error": "‖WWᵀ − cI‖ / ‖cI‖",
}
FITTED: dict[str, Settings] = {
    f"{objective}, {head}, from {start}": {"objective": objective, "head": head, "start": start}
    for objective in ("cosine", "sne")
    for head in ("linear", "orthogonal", "layernorm")
    for start in ("svd", "random")
}
CLOSED: dict[str, Settings] = {
    name: {"objective": name} for name in ("svd", "pca-basis", "random-orthogonal")
}
MAPPINGS = {**CLOSED, **FITTED}


def preserved(material: Material, mapping: Settings, seed: int) -> dict[str, float]:
    """Fit one mapping on the training views; measure it on the test photos."""
    config = material.config_with("mapping", {**mapping, "seed": seed}, {})
    record = material.pipeline_with(config).mapped.record
    return {**record["metrics"], "seconds": record["seconds"]}


def table(found: dict[str, Any]) -> str:
    """Write the measurements as Markdown: mean ± half of the 95% interval over seeds."""
    machine = found["provenance"]
    lines = [
        "# Mappings: angles kept between photos never fitted on",
        "",
        f"EfficientNet-Lite0 (1280 wide) to {WIDTH}, fitted on {VIEWS} views of each training "
        f"photo, measured on the test photos' own embeddings; {found['seeds']} seeds (of batches "
        "and random starts), ± half of the 95% interval of the mean (Student's t).",
        "",
        f"{machine['cores']} cores ({machine['machine']}), torch {machine['packages']['torch']}, "
        f"{machine['created'][:10]}. Seconds: the fit alone.",
    ]
    for dataset in dict.fromkeys(row["dataset"] for row in found["rows"]):
        lines += ["", f"## {dataset}", ""]
        lines += ["| mapping | " + " | ".join(METRICS.values()) + " | seconds |"]
        lines += ["|---" * (len(METRICS) + 2) + "|"]
        for name in MAPPINGS:
            mine = [r for r in found["rows"] if (r["dataset"], r["mapping"]) == (dataset, name)]
            cells = [cell([row[metric] for row in mine], digits=4) for metric in METRICS]
            seconds = sum(row["seconds"] for row in mine) / len(mine)
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {seconds:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run: few photos, one seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("build/bench-method"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    seeds = 1 if options.quick else options.seeds
    # The same photos and views as the method benchmark, whose caches are used where they lie.
    name = "method-quick" if options.quick else "method"
    folder = (options.folder / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    rows = []
    for dataset, make in materials(folder, QUICK if options.quick else FULL):
        material = make()
        for mapping, settings in MAPPINGS.items():
            for seed in range(seeds):
                values = preserved(material, settings, seed)
                rows.append({"dataset": dataset, "mapping": mapping, "seed": seed, **values})
            print(f"{dataset:>9} {mapping:<34} {rows[-1]['pairwise_pearson']:.4f}", flush=True)
    found = {"seeds": seeds, "rows": rows, "provenance": provenance()}
    target = folder if options.quick else options.results
    target.mkdir(parents=True, exist_ok=True)
    (target / "mappings.json").write_text(json.dumps(found, indent=1))
    text = table(found)
    (target / "mappings.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
