"""How a mapping is made.

Legend: D teacher width, K student width.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from tintem_core.losses import FEWEST_EMBEDDINGS

Head = Literal["linear", "layernorm", "orthogonal"]
FITTED_OBJECTIVES = ("sne", "cosine")


class MappingConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """How the teacher-to-student mapping is fitted."""

    width: int | None = Field(
        None, ge=1, le=65_536, description="K; null takes the student's natural width"
    )
    objective: Literal["svd", "pca-basis", "random-orthogonal", "sne", "cosine"] = Field(
        "cosine",
        description="closed form (svd, pca-basis, random-orthogonal), or what the fit minimises",
    )
    start: Literal["svd", "pca-basis", "random"] = Field(
        "svd", description="where the fit of sne and cosine starts"
    )
    head: Head = Field(
        "linear",
        description="linear: no bias; layernorm: the official LayerNorm + Linear with bias; "
        "orthogonal: linear with exactly orthonormal rows",
    )
    axes: Literal["mixed", "principal"] = Field(
        "mixed",
        description="mixed: turned at random, which changes no angle, so that every coordinate "
        "varies about as much as every other and students learn it better; principal: along the "
        "main directions of the data",
    )
    fit: Literal["once", "joint"] = Field(
        "once", description="on the cache before the students, or inside each student's step"
    )
    steps: int = Field(300, ge=1, le=10_000_000, description="optimiser steps of sne and cosine")
    batch_size: int = Field(
        512, ge=FEWEST_EMBEDDINGS, le=16_384, description="rows compared with each other in a step"
    )
    token_images: int = Field(
        64,
        ge=1,
        le=65_536,
        description="images of a step whose tokens are compared, where tokens are cached",
    )
    learning_rate: float = Field(
        3e-4, gt=0, le=100, description="Adam's peak; decays to 0 on a cosine"
    )
    moment_rows: int = Field(
        100_000,
        ge=1,
        le=100_000_000,
        description="most rows, drawn with the seed, that the closed form reads",
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="of batches, random starts and mixed axes")

    @model_validator(mode="after")
    def _joint_needs_an_objective(self) -> Self:
        if self.fit == "joint" and self.objective not in FITTED_OBJECTIVES:
            raise ValueError(
                f"a joint fit has nothing to minimise for objective {self.objective!r}; "
                "use 'cosine' or 'sne', or fit 'once'"
            )
        return self

    @property
    def basis(self) -> Literal["svd", "pca-basis", "random"]:
        """What the mapping is, or starts from."""
        match self.objective:
            case "svd" | "pca-basis":
                return self.objective
            case "random-orthogonal":
                return "random"
            case _:
                return self.start

    @property
    def mixes(self) -> bool:
        """Whether a rotation follows; a random basis has no main directions."""
        return self.axes == "mixed" and self.basis != "random"

    @property
    def descends(self) -> bool:
        """Whether optimiser steps on the cache follow the closed form."""
        return self.objective in FITTED_OBJECTIVES and self.fit == "once"

    def identity(self, rows: int, *, tokens: bool) -> dict[str, Any]:
        """Return everything that determines the mapping, and nothing else; without K.

        Args:
            rows: N, that it is fitted on.
            tokens: whether their tokens are at hand.
        """
        found: dict[str, Any] = {"objective": self.objective, "head": self.head, "fit": self.fit}
        if self.objective in FITTED_OBJECTIVES:
            found["start"] = self.start
        is_random = self.basis == "random"
        if not is_random:
            found["axes"] = self.axes
        reads_rows = not is_random or self.head == "layernorm"
        is_sampled = reads_rows and rows > self.moment_rows
        if is_sampled:
            found["moment_rows"] = self.moment_rows
        if self.descends:
            found |= {"steps": self.steps, "learning_rate": self.learning_rate}
            found["batch_size"] = min(self.batch_size, rows)
            if tokens:
                found["token_images"] = min(self.token_images, found["batch_size"])
        if self.descends or is_random or is_sampled or self.mixes:
            found["seed"] = self.seed
        return found
