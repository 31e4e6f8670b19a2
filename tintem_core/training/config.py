"""How a student is trained."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tintem_core.models.config import Precision
from tintem_core.objectives.config import ObjectiveConfig

Schedule = Literal["cosine", "tanh", "poly", "wsd", "rsqrt", "step", "multistep", "constant"]
# What counts only where photos are held out to choose the weights by.
_SELECTION_SETTINGS = {"select", "validation_share", "validate_every", "select_knn"}
# What a schedule looks at, beside the learning rate and the warm-up.
_SCHEDULE_SETTINGS: dict[Schedule, set[str]] = {
    "cosine": {"final_learning_rate"},
    "tanh": {"final_learning_rate"},
    "poly": {"final_learning_rate", "power"},
    "wsd": {"final_learning_rate", "decay_epochs"},
    "rsqrt": {"final_learning_rate", "decay_epochs"},
    "step": {"decay_epochs", "decay_rate"},
    "multistep": {"decay_milestones", "decay_rate"},
    "constant": set(),
}


class TrainingConfig(ObjectiveConfig, frozen=True, extra="forbid", allow_inf_nan=False):
    """How a student is trained."""

    epochs: int = Field(
        60, ge=1, le=1_000_000, description="passes over the training images, one view each"
    )
    extends: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="start from the finished student of this many epochs; the learning-rate "
        "schedule, warm-up included, starts anew over the epochs that remain",
    )
    batch_size: int = Field(
        64, ge=2, le=1_048_576, description="images per optimiser step, of all processes"
    )
    accumulation: int = Field(
        1,
        ge=1,
        le=1_048_576,
        description="pieces that each process computes a batch in, one after the other; doubled "
        "where the GPU's memory does not hold a piece",
    )
    views: int | None = Field(
        None, ge=1, le=256, description="use only this many of the cached views; null for all"
    )
    evaluation_view: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="share of the epochs in which a photo is seen in its evaluation view, the one "
        "that students are measured and used on; the other epochs see a training view",
    )
    support: float = Field(
        0.2,
        ge=0,
        le=0.9,
        description="share of every batch that comes from the support images; objective "
        "supervised takes none",
    )
    optimizer: str = Field("adamw", description="any timm optimiser")
    optimizer_options: dict[str, bool | int | float | str | tuple[float, ...]] = Field(
        {}, description="further arguments of the optimiser, such as betas or momentum"
    )
    schedule: Schedule = Field(
        "cosine",
        description="timm's schedule after the warm-up: cosine, tanh and poly fall from the peak "
        "to the final learning rate, wsd (warm up, hold, decay) and rsqrt in their last "
        "decay_epochs; step and multistep fall by decay_rate; constant stays",
    )
    decay_epochs: float = Field(
        30,
        gt=0,
        le=1e6,
        description="epochs between two decays of step; length of the last of wsd, rsqrt",
    )
    decay_milestones: tuple[float, ...] = Field(
        (), description="epochs after which multistep decays"
    )
    decay_rate: float = Field(0.1, gt=0, le=1, description="factor of a decay: step, multistep")
    power: float = Field(1.0, gt=0, le=100, description="exponent of the polynomial: poly")
    learning_rate: float = Field(
        3e-3, gt=0, le=1e30, description="peak learning rate, after the warm-up"
    )
    final_learning_rate: float = Field(
        1e-5,
        ge=0,
        le=1_000,
        description="learning rate at the end; step, multistep and constant have none",
    )
    warmup_learning_rate: float = Field(
        1e-6, ge=0, le=1_000, description="where the warm-up starts"
    )
    warmup_epochs: float = Field(2, ge=0, le=1e6, description="epochs of linear warm-up")
    weight_decay: float = Field(0.05, ge=0, le=1_000, description="decoupled weight decay")
    clip_norm: float | None = Field(
        None, gt=0, le=1e9, description="gradient norm limit; null for none"
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="export a moving average of the weights, warmed up to this decay per step",
    )
    precision: Precision = Field(
        "float32", description="autocast type of the student's forward pass"
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="initial weights and data order")
    select: Literal["last", "best"] = Field(
        "last",
        description="the student's weights: the last ones, or the best on photos held out of the "
        "training ones",
    )
    validation_share: float = Field(
        0.1, gt=0, lt=1, description="share of the training photos held out, select 'best' only"
    )
    validate_every: int = Field(
        10,
        ge=1,
        le=1_000_000,
        description="epochs between two validations, the last one at the end",
    )
    select_knn: int = Field(
        200,
        ge=1,
        le=1_000_000,
        description="neighbours that vote in a validation (cosine, temperature 0.1), at most all "
        "photos that are trained on",
    )

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if self.extends is not None and self.extends >= self.epochs:
            raise ValueError(
                f"extends ({self.extends}) must be below epochs ({self.epochs}), the new total"
            )
        if self.schedule == "rsqrt" and not self.warmup_epochs:
            raise ValueError(
                "schedule 'rsqrt' falls the more slowly the longer its warm-up was: set "
                "training.warmup_epochs above 0"
            )
        if self.schedule == "multistep" and not self.decay_milestones:
            raise ValueError(
                "schedule 'multistep' decays after training.decay_milestones: give some epochs, "
                "such as [30, 60]"
            )
        return self

    def identity(self, cached_views: int) -> dict[str, Any]:
        """Return everything that determines the trained weights, and nothing else.

        Args:
            cached_views: per image.
        """
        ignored = set.union(*_SCHEDULE_SETTINGS.values()) - _SCHEDULE_SETTINGS[self.schedule]
        if not self.warmup_epochs:
            ignored.add("warmup_learning_rate")
        if not self.local_weight:
            ignored.add("local_per_token")
        # Students of before they existed keep their ids.
        new = ("evaluation_view", "support", "centred_weight")
        ignored |= {name for name in new if not getattr(self, name)}
        if not self.kind.uses_mapping:
            ignored.add("centred_weight")
        if self.kind.needs_labels:
            ignored.add("support")
        if self.select == "last":
            ignored |= _SELECTION_SETTINGS
        return {
            **self.model_dump(mode="json", exclude=ignored),
            "views": self.views or cached_views,
        }

    def before_extension(self) -> "TrainingConfig":
        """Return the recipe of the shorter training that this one extends."""
        assert self.extends is not None
        return self.model_copy(update={"epochs": self.extends, "extends": None})
