"""What to set for how many photos.

Legend: N photos to learn from, B batch size, s share of support images in a batch. A training has
about epochs * N / (B * (1 - s)) steps: some thousands to some hundred thousands.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """Settings for a number of photos, and why."""

    most_photos: int | None
    """None: no limit."""
    views: int
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_epochs: int
    support: float
    """Share of a batch that comes from support images."""
    synthetic: int
    """Drawn support images."""
    dtype: Literal["float16", "int8"]
    mapping_steps: int
    reason: str

    @property
    def title(self) -> str:
        """For how many photos, in words."""
        if self.most_photos is None:
            return f"more than {RECIPES[-2].most_photos:,}"
        return f"up to {self.most_photos:,}"


# The last row is the paper's: B = 1024, AdamW at 5e-4, a warm-up of 5 epochs and 300 epochs of 1.28
# million photos (deploy/recipes/cospress-imagenet.yaml). The others have smaller batches, so that
# there are enough steps, and higher learning rates, because there are fewer steps all the same.
RECIPES = (
    Recipe(
        most_photos=3_000,
        views=16,
        epochs=300,
        batch_size=64,
        learning_rate=1e-3,
        warmup_epochs=10,
        support=0.3,
        synthetic=2_000,
        dtype="float16",
        mapping_steps=300,
        reason="Few photos need many views, many epochs and small batches to give thousands of "
        "steps, and support images that show the teacher's answers outside of the data.",
    ),
    Recipe(
        most_photos=30_000,
        views=8,
        epochs=200,
        batch_size=128,
        learning_rate=1e-3,
        warmup_epochs=5,
        support=0.2,
        synthetic=5_000,
        dtype="float16",
        mapping_steps=300,
        reason="More photos vary more by themselves, so that half of the views and fewer epochs "
        "give tens of thousands of steps.",
    ),
    Recipe(
        most_photos=300_000,
        views=8,
        epochs=100,
        batch_size=256,
        learning_rate=7e-4,
        warmup_epochs=5,
        support=0.1,
        synthetic=20_000,
        dtype="float16",
        mapping_steps=1_000,
        reason="A hundred epochs give tens of thousands of steps, and the mapping is fitted on "
        "more of the photos.",
    ),
    Recipe(
        most_photos=None,
        views=8,
        epochs=300,
        batch_size=1024,
        learning_rate=5e-4,
        warmup_epochs=5,
        support=0.05,
        synthetic=50_000,
        dtype="int8",
        mapping_steps=3_000,
        reason="Batch, learning rate, warm-up and epochs are the paper's for 1.28 million photos, "
        "and int8 halves a cache that counts in gigabytes; from some million photos on, fewer "
        "epochs give as many steps.",
    ),
)


def recipe_for(photos: int) -> Recipe:
    """Return the recipe of the smallest row that a number of photos fits into."""
    fits = (r for r in RECIPES if r.most_photos is None or photos <= r.most_photos)
    return next(fits)


def recipe_table() -> str:
    """Render all recipes as a Markdown table, as docs/training.md shows it."""
    rows = [
        ("setting", *(recipe.title for recipe in RECIPES)),
        ("---", *("---:" for _ in RECIPES)),
        ("`views.count`", *(f"{r.views}" for r in RECIPES)),
        ("`training.epochs`", *(f"{r.epochs}" for r in RECIPES)),
        ("`training.batch_size`", *(f"{r.batch_size}" for r in RECIPES)),
        ("`training.learning_rate`", *(f"{r.learning_rate:g}" for r in RECIPES)),
        ("`training.warmup_epochs`", *(f"{r.warmup_epochs}" for r in RECIPES)),
        ("`training.support`", *(f"{r.support}" for r in RECIPES)),
        ("`support.synthetic`", *(f"{r.synthetic:,}" for r in RECIPES)),
        ("`cache.dtype`", *(r.dtype for r in RECIPES)),
        ("`mapping.steps`", *(f"{r.mapping_steps:,}" for r in RECIPES)),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    reasons = "\n".join(f"- {recipe.title}: {recipe.reason}" for recipe in RECIPES)
    return f"{table}\n\n{reasons}\n"
