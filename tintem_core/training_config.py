"""How a student is trained."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tintem_core.objectives import ObjectiveConfig
from tintem_core.teachers import Precision


class TrainingConfig(ObjectiveConfig, frozen=True, extra="forbid"):
    """How a student is trained."""

    epochs: int = Field(60, ge=1, description="passes over the training images, one view each")
    extends: int | None = Field(
        None,
        ge=1,
        description="start from the finished student of this many epochs; the learning-rate "
        "schedule, warm-up included, starts anew over the epochs that remain",
    )
    batch_size: int = Field(64, ge=2, description="images per optimiser step, of all processes")
    accumulation: int = Field(
        1,
        ge=1,
        description="pieces that each process computes a batch in, one after the other; doubled "
        "where the GPU's memory does not hold a piece",
    )
    views: int | None = Field(
        None, ge=1, description="use only this many of the cached views; null for all"
    )
    optimizer: str = Field("adamw", description="any timm optimiser")
    optimizer_options: dict[str, bool | int | float | str | tuple[float, ...]] = Field(
        {}, description="further arguments of the optimiser, such as betas or momentum"
    )
    schedule: Literal["cosine", "tanh", "poly", "step", "constant"] = Field(
        "cosine", description="timm's schedule from the peak to the final learning rate"
    )
    decay_epochs: float = Field(30, gt=0, description="epochs between two decays, schedule step")
    decay_rate: float = Field(0.1, gt=0, le=1, description="factor of a decay, schedule step")
    learning_rate: float = Field(3e-3, gt=0, description="peak learning rate, after the warm-up")
    final_learning_rate: float = Field(1e-5, ge=0, description="learning rate at the end")
    warmup_learning_rate: float = Field(1e-6, ge=0, description="where the warm-up starts")
    warmup_epochs: float = Field(2, ge=0, description="epochs of linear warm-up")
    weight_decay: float = Field(0.05, ge=0, description="decoupled weight decay")
    clip_norm: float | None = Field(None, gt=0, description="gradient norm limit; null for none")
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="export a moving average of the weights, warmed up to this decay per step",
    )
    precision: Precision = Field(
        "float32", description="autocast type of the student's forward pass"
    )
    seed: int = Field(0, ge=0, description="initial weights and data order")

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if self.extends is not None and self.extends >= self.epochs:
            raise ValueError(
                f"extends ({self.extends}) must be below epochs ({self.epochs}), the new total"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return everything that determines the trained weights."""
        return self.model_dump(mode="json")

    def before_extension(self) -> "TrainingConfig":
        """Return the recipe of the shorter training that this one extends."""
        assert self.extends is not None
        return self.model_copy(update={"epochs": self.extends, "extends": None})
