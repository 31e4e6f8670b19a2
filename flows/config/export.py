"""The section of a config that says what is published of a student, and when."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, field_validator

from tintem_core.export.formats import DEFAULT, FORMATS


def _known_format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"there is no such format; known are {', '.join(FORMATS)}")
    return name


class ExportConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """What is published of a student, and when it may be."""

    minimum_cosine: float = Field(
        0.9999, gt=0, le=1, description="smallest cosine of ONNX Runtime to torch over real photos"
    )
    images: int = Field(256, ge=1, le=100_000, description="photos that the check runs on")
    formats: tuple[Annotated[str, AfterValidator(_known_format)], ...] = Field(
        DEFAULT,
        description="onnx (0..1 inside, the file that `latest` names), uint8 (whole pixels, cannot "
        "be fed wrong), web (transformers.js, fastembed), timm, fp16, int8, ood (as uint8, and "
        "tells strange photos), triton (a model repository); each is checked on real photos",
    )
    ood_bank: int = Field(
        256,
        ge=1,
        le=65_536,
        description="training photos that the score of format ood compares with, chosen to cover "
        "all of them",
    )
    reduced_cosine: float = Field(
        0.99, gt=0, le=1, description="mean cosine to the student that fp16 and int8 must reach"
    )
    reduced_loss: float = Field(
        0.02,
        ge=0,
        le=1,
        description="most that fp16 and int8 may lose in faithfulness, retrieval, kNN and AUROC",
    )
    license: str | None = Field(
        None, min_length=1, description="licence of the student, as the card gives it"
    )
    teacher_license: str | None = Field(
        None, min_length=1, description="licence of the teacher's weights; null: as timm knows it"
    )
    data_license: str | None = Field(
        None, min_length=1, description="licence of the photos, as the card gives it"
    )
    license_policy: tuple[str, ...] = Field(
        (),
        description="refuse to publish unless the teacher's licence is one of these; empty: any",
    )

    @field_validator("formats")
    @classmethod
    def _onnx_is_first(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        if formats[:1] != ("onnx",) or len(set(formats)) < len(formats):
            raise ValueError("begin with onnx, which devices are given, and name each format once")
        return formats

    def identity(self) -> dict[str, Any]:
        """Return everything that determines an export."""
        # What an export of before them did not have is named where it differs only.
        fields = type(self).model_fields
        later = set(fields) - {"minimum_cosine", "images"}
        return self.model_dump(
            exclude={name for name in later if getattr(self, name) == fields[name].default}
        )
