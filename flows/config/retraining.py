"""When a night trains again, which students, and what they must reach."""

from typing import Any, Self

from pydantic import BaseModel, Field, model_validator

NAME = "name"
_VARYING = ("student", "training", "mapping")
_LIMITS = ("minimum", "maximum", "may_fall", "may_rise")


class GateConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """What a number of the evaluation must be before a student is promoted."""

    metric: str = Field(
        description="subject/set/name as the evaluation says it, such as student/test/knn"
    )
    minimum: float | None = Field(None, description="smallest value, in the metric's unit")
    maximum: float | None = Field(None, description="largest value, in the metric's unit")
    may_fall: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="how far below the current latest it may be, in the metric's unit",
    )
    may_rise: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="how far above the current latest it may be, in the metric's unit",
    )

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        limits = [getattr(self, name) for name in _LIMITS]
        if limits == [None] * len(limits):
            raise ValueError(
                f"the gate of {self.metric} asks for nothing: give {', '.join(_LIMITS[:-1])} or "
                f"{_LIMITS[-1]}"
            )
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(
                f"the gate of {self.metric} can never open: minimum {self.minimum} is above "
                f"maximum {self.maximum}"
            )
        return self


class NightlyConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """When a night trains again, which students, and what they must reach."""

    growth: float | None = Field(
        0.1,
        gt=0,
        le=1e6,
        description="train again when there are this many new training photos, as a share of those "
        "already decided on; null: never because of growth",
    )
    drift: float | None = Field(
        0.2,
        gt=0,
        le=1,
        description="train again when this share of the new photos is strange (of photos like the "
        "known ones, 0.05 are); null: never because of drift",
    )
    chance: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="drift counts only if photos like the known ones would give as many strange "
        "ones with at most this probability",
    )
    students: tuple[dict[str, Any], ...] = Field(
        (),
        description="students by their settings of student, training and mapping, and maybe a "
        "name; none: the run's own student",
    )
    keep_mapping: bool = Field(
        True,
        description="train against the latest student's mapping, so that embeddings of successive "
        "nights can be compared; false: a new one each time (as always with mapping.fit joint)",
    )
    warm_start: bool = Field(
        False, description="start from the latest student's weights; needs keep_mapping"
    )
    gates: tuple[GateConfig, ...] = Field(
        (GateConfig(metric="student/test/pairwise_pearson", may_fall=0.02),),
        description="what a new student must reach to be promoted; none: everything is promoted",
    )
    shown: int = Field(24, ge=0, le=500, description="strangest new photos shown in the report")

    @model_validator(mode="after")
    def _students_can_share_a_night(self) -> Self:
        for place, entry in enumerate(self.students):
            for setting in entry:
                if setting != NAME and setting.split(".")[0] not in _VARYING:
                    raise ValueError(
                        f"students[{place}]: '{setting}' is the same for all students of a night, "
                        f"which differ in settings of {', '.join(_VARYING)}"
                    )
            name = entry.get(NAME, "unnamed")
            if not (isinstance(name, str) and name.strip()):
                raise ValueError(f"students[{place}] is named {name!r}: a name is a text")
        if self.warm_start and not self.keep_mapping:
            raise ValueError(
                "warm_start goes on from weights that answer to the latest student's mapping: set "
                "keep_mapping to true, or warm_start to false"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return what a night's decisions depend on, apart from its students."""
        return self.model_dump(mode="json", exclude={"students", "shown"})
