"""The section of a config that says what is measured."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator

from storage.images import SourceConfig
from tintem_core.evaluation.ood import SCORES


def _known_score(name: str) -> str:
    if name not in SCORES:
        raise ValueError(f"there is no such score; known are {', '.join(SCORES)}")
    return name


class EvaluationConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """What is measured on photos that were never trained on."""

    ood: tuple[SourceConfig, ...] = Field((), description="named out-of-distribution sets")
    knn: int = Field(
        10, ge=1, le=1_000_000, description="neighbours that vote (cosine, temperature 0.07)"
    )
    ood_neighbour: int = Field(
        1, ge=1, le=1_000_000, description="which nearest neighbour gives the OOD score"
    )
    ood_score: Annotated[str, AfterValidator(_known_score)] = Field(
        "nearest-cosine",
        description="what tells an outlier: nearest-cosine, mahalanobis or relative-mahalanobis; "
        "of the others the AUROC is measured too",
    )
    false_alarm_rate: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of the test photos that the threshold of the OOD score may take for "
        "strange",
    )
    shifts: dict[str, Literal["near", "far", "covariate"]] = Field(
        {},
        description="what sets of ood are, by name: near or far OOD, or the same classes under "
        "other conditions (covariate), whose labels are scored too",
    )
    probes: tuple[Literal["linear", "logistic"], ...] = Field(
        (),
        description="linear probes on teacher and student: linear (SGD, as DINOv2), logistic "
        "(L-BFGS); their choices are made on a part of train",
    )
    corrupted_photos: int = Field(
        0,
        ge=0,
        le=100_000,
        description="test photos that are embedded under 15 common corruptions at 5 severities "
        "each, 75 views per photo and model; 0: none",
    )
    fine_tune_epochs: int = Field(
        0,
        ge=0,
        le=10_000,
        description="epochs in which the student is trained on the labels, beside the same network "
        "from scratch, three seeds of each; 0: it is not",
    )
    masks: str | None = Field(
        None,
        description="folder of segmentation masks, local or s3://: a PNG of the same path as the "
        "photo, whose values are classes, 255 for none; null: segmentation is not measured",
    )
    index: str | None = Field(
        None,
        min_length=1,
        description="id of another student of the root: its embeddings are an index that this "
        "student is asked to find the photos in; null: only the teacher's is",
    )
    groups: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        max_length=20,
        description="columns written beside the photos of data (camera, site) by whose values the "
        "test photos are told apart, each measured by itself; of a column with more than 50 "
        "values, the 50 with the most test photos",
    )
    resamples: int = Field(
        1000, ge=100, le=100_000, description="bootstrap resamples behind each interval"
    )

    @model_validator(mode="after")
    def _shifts_are_of_sets(self) -> "EvaluationConfig":
        names = [source.name for source in self.ood]
        for name in self.shifts:
            if name not in names:
                known = ", ".join(names) or "none"
                raise ValueError(f"evaluation.shifts: no set of evaluation.ood is named '{name}' "
                                 f"(there are: {known})")  # fmt: skip
        return self

    @field_validator("groups")
    @classmethod
    def _groups_are_columns(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"'{twice[0]}' is named twice: leave one out")
        if "uri" in names:
            raise ValueError("every photo has a uri of its own: name a column whose values repeat")
        return names

    @property
    def same_classes(self) -> list[str]:
        """Names of the sets whose labels are of the run's own classes."""
        return [name for name, shift in self.shifts.items() if shift == "covariate"]

    def identity(self) -> dict[str, Any]:
        """Return everything that determines what is measured, masks, groups and index apart."""
        # Settings that came later leave no trace while they are the usual ones.
        later = (
            "ood_score", "probes", "false_alarm_rate", "shifts", "corrupted_photos",
            "fine_tune_epochs",
        )  # fmt: skip
        fields = type(self).model_fields
        # What masks and groups are is told by the files' names and sizes, and by the values; the
        # index of another student changes no other measure.
        unnamed = {"groups", "index", "masks"} | {
            name for name in later if getattr(self, name) == fields[name].default
        }
        return self.model_dump(mode="json", exclude={"ood", *unnamed})
