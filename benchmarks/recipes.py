"""What the rows of `tintem init`'s recipes are worth, on photos of a row's own number.

Each set of photos is distilled with the recipe of its row and with that of the next, three seeds
each, on the same photos, and measured on photos of cells that were never trained on.

``cells``   2,624 photos of solar cells, about 2,100 to learn from: the row of up to 3,000.
``tiles``   each of them cut into four, all four on the same side of the split; about 8,400 to learn
            from, 4,200 with --every 2: the row of up to 30,000.

The student starts from random weights, as one of `tintem init` does; its teacher is the
quickstart's. Needs the demo packages. What is finished is not done again.

Run: python benchmarks/recipes.py [--sets cells tiles] [--every 1] [--seeds 0 1 2]
     [--folder FOLDER]
"""

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from flows.config.demo import TEACHER, prepare
from flows.config.load import load_config
from flows.config.recipes import RECIPES, Recipe, recipe_for
from flows.config.variants import variant
from flows.provenance import provenance
from flows.stages.pipeline import Pipeline

RESULTS = Path(__file__).parent / "results"
STUDENT = {"model": "test_resnet", "image_size": 64}
MEASURES = {
    "R²": "student/test/r2_to_mapped",
    "same photo R@1": "student/test/same_photo_at_1",
    "overlap@10": "student/test/neighbour_overlap_10",
    "Pearson": "student/test/pairwise_pearson",
    "kNN": "student/test/knn",
}
TEACHERS_KNN = "teacher/test/knn"
TEST_SHARE = 5  # one cell in so many is tested on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=["cells", "tiles"], default=["cells", "tiles"])
    parser.add_argument("--every", type=int, default=1, help="take one cell in so many")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("tintem-recipes"))
    parser.add_argument("--out", type=Path, default=RESULTS / "recipes.json")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    prepare(options.folder)
    rows: list[dict[str, Any]] = []
    for name in options.sets:
        photos = listed(options.folder, name, options.every)
        own = RECIPES.index(recipe_for(photos))
        for seed in options.seeds:
            for recipe in RECIPES[own : own + 2]:
                row = measured(options.folder, name, recipe, seed)
                rows.append({"set": name, "photos": photos, "own": recipe is RECIPES[own], **row})
                print(json.dumps(rows[-1]), flush=True)
                content = {"rows": rows, "provenance": provenance()}
                options.out.write_text(json.dumps(content, indent=1))


def listed(folder: Path, name: str, every: int) -> int:
    """Write the list of a set's photos, and tiles where they are asked for; count the train ones.

    A cell and its four tiles are on the same side of the split.
    """
    rows = []
    cells = [
        row
        for kind in ("mono", "poly")
        for row in csv.DictReader((folder / f"{kind}-cells.csv").read_text().splitlines())
    ]
    for number, cell in enumerate(cells[::every]):
        split = "train" if number % TEST_SHARE else "test"
        for place in [cell["uri"]] if name == "cells" else _tiles(folder, Path(cell["uri"])):
            rows.append({"uri": str(place), "label": cell["label"], "split": split})
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return sum(row["split"] == "train" for row in rows)


def _tiles(folder: Path, cell: Path) -> Iterator[Path]:
    (folder / "tiles").mkdir(exist_ok=True)
    for quarter in range(4):
        place = (folder / "tiles" / f"{cell.stem}-{quarter}.png").absolute()
        if not place.is_file():
            with Image.open(cell) as image:
                width, height = image.width // 2, image.height // 2
                left, top = quarter % 2 * width, quarter // 2 * height
                image.crop((left, top, left + width, top + height)).save(place)
        yield place


def measured(folder: Path, name: str, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Train with a recipe; return what the student reaches."""
    settings = {
        "root": "results",
        "data": {
            "name": name, "uri": f"{name}.csv", "label_column": "label", "split_column": "split",
        },
        "teacher": {"model": TEACHER, "weights": "teacher.safetensors", "image_size": 128},
        "views": {"count": recipe.views},
        "support": {"synthetic": recipe.synthetic},
        "cache": {"dtype": recipe.dtype},
        "mapping": {"width": 256, "objective": "cosine", "steps": recipe.mapping_steps},
        "student": STUDENT,
        "training": {
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "learning_rate": recipe.learning_rate,
            "warmup_epochs": recipe.warmup_epochs,
            "support": recipe.support,
        },
    }  # fmt: skip
    path = folder / f"{name}-{recipe.views}-{recipe.epochs}.yaml"
    path.write_text(yaml.safe_dump(settings))
    config = load_config(path)
    run = Pipeline(variant(config, {"training.seed": seed}))
    metrics = run.evaluated.record["metrics"]
    found = {title: metrics[metric] for title, metric in MEASURES.items()}
    return {"recipe": recipe.title, "seed": seed, **found, "teacher's kNN": metrics[TEACHERS_KNN]}


if __name__ == "__main__":
    main()
