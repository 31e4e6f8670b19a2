"""Which models are wanted, as a config says it. Needs no torch: a config is checked in no time."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

Precision = Literal["float32", "bfloat16", "float16"]
Triple = tuple[float, float, float]
_SET_HERE = {
    "num_classes", "features_only", "pretrained", "checkpoint_path", "img_size", "in_chans",
    "pretrained_cfg", "out_indices",
}  # fmt: skip


class BackboneConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A model of images and the size of its input."""

    model: str | None = Field(None, description="timm model name, as in timm.list_models()")
    python: str | None = Field(
        None,
        pattern=r"^([^:]*/)?[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="module:function or folder/module:function, a function of your own that "
        "returns an nn.Module, see docs/teachers.md; the module is looked for in the folder first",
    )
    image_size: int = Field(224, ge=16, le=2048, description="side of the square input, pixels")

    kinds: ClassVar[tuple[str, ...]] = ("model", "python")
    """The settings of which exactly one says what the model is."""
    only_for: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Settings that only some kinds of models have."""

    @property
    def kind(self) -> str:
        """Which of :attr:`kinds` is given."""
        return next(kind for kind in self.kinds if getattr(self, kind) is not None)

    @property
    def name(self) -> str:
        """What the model is, for people and in readable ids: a name without folders."""
        given: str = getattr(self, self.kind)
        return given if self.kind == "model" else given.rstrip("/").rpartition("/")[2]

    @model_validator(mode="after")
    def _is_one_model(self) -> Self:
        given = [kind for kind in self.kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            found = f"both {given[0]} and {given[1]} are given" if given else "none is given"
            raise ValueError(f"give exactly one of {', '.join(self.kinds)}; {found}")
        for setting, kinds in self.only_for.items():
            is_set = getattr(self, setting) != type(self).model_fields[setting].default
            if is_set and self.kind not in kinds:
                raise ValueError(
                    f"'{setting}' is a setting of {' and '.join(kinds)}, not of {self.kind}: "
                    "leave it out"
                )
        return self


class StudentConfig(BackboneConfig, frozen=True, extra="forbid", allow_inf_nan=False):
    """The small model that is trained."""

    stages: int | None = Field(
        None,
        ge=1,
        le=1_000,
        description="keep only the first so many stages of the model (of a ViT, blocks), as a "
        "smaller student that can start from the weights of the whole; null: all",
    )
    pretrained: bool = Field(False, description="start from timm's weights instead of from scratch")
    weights: str | None = Field(
        None, description="start from this .safetensors or .pth file (timm's names, or a student's)"
    )
    partial_weights: bool = Field(
        False, description="take what fits of `weights` by name and shape; false: all must fit"
    )
    options: dict[str, bool | int | float | str] = Field(
        {},
        description="further arguments of timm.create_model, such as patch_size or depth, or of "
        "the function of `python`",
    )

    only_for: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "stages": ("model",),
        "pretrained": ("model",),
    }

    @field_validator("options")
    @classmethod
    def _are_the_users(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        taken = sorted(_SET_HERE & options.keys())
        # What a function of the user's own is given is theirs.
        if taken and info.data.get("python") is None:
            raise ValueError(
                f"'{taken[0]}' is set by TinTeM: leave it out (weights are student.weights and "
                "student.pretrained)"
            )
        return options

    @property
    def title(self) -> str:
        """What the model is, for people."""
        part = "" if self.stages is None else f" (first {self.stages} stages)"
        return self.name + part

    def identity(self) -> dict[str, Any]:
        """Return everything that determines the untrained student, but for files and code."""
        # Students of before these existed keep their ids.
        unused = {s for s in ("stages", "model", "python") if getattr(self, s) is None}
        return {**self.model_dump(mode="json", exclude=unused), self.kind: self.name}


class TeacherConfig(BackboneConfig, frozen=True, extra="forbid", allow_inf_nan=False):
    """The frozen model whose latent space the students learn."""

    onnx: str | None = Field(None, description="path of an ONNX model, run by ONNX Runtime")
    hf: str | None = Field(
        None,
        description="a vision model of transformers: a folder that save_pretrained wrote, or a "
        "name on the Hugging Face Hub",
    )
    weights: str = Field(
        "pretrained",
        description="of a timm model: 'pretrained' (fetched by timm) or a path to a .safetensors "
        "or .pth file",
    )
    mean: Triple | None = Field(
        None,
        description="per-channel mean that is taken from the pixels; null: what comes with the "
        "model, 0 for python",
    )
    std: Triple | None = Field(
        None,
        description="per-channel standard deviation that they are then divided by; null: what "
        "comes with the model, 1 for python",
    )
    scale: Literal[1, 255] | None = Field(
        None, description="of an ONNX model: a white pixel before mean and std; null: 1"
    )
    layout: Literal["NCHW", "NHWC"] | None = Field(
        None, description="of an ONNX model's input; null: as its shape says, else NCHW"
    )
    input: str | None = Field(None, description="an ONNX model's input; null: the only one")
    output: str | None = Field(
        None, description="an ONNX model's output that is the embedding; null: the only one"
    )
    tokens: str | None = Field(
        None, description="an ONNX model's output of patch tokens, (B, T, C) or (B, C, H, W)"
    )
    prefix_tokens: int | None = Field(
        None,
        ge=0,
        le=1_000,
        description="tokens of an ONNX model before those of the patches; null: so many that the "
        "rest forms a square",
    )
    pool: Literal["pooler", "cls", "mean"] | None = Field(
        None,
        description="which output is the embedding: transformers' pooled one, the first token, the "
        "mean of the patches; null: what is right for the family (hf), one vector (onnx)",
    )
    precision: Precision = Field(
        "float32", description="autocast type of the forward pass; an ONNX model has its own"
    )
    latents: str | None = Field(
        None,
        description="a file of embeddings of the photos' evaluation view, instead of a model that "
        "gives them: Parquet with a column key or uri and a column embedding, or .npy",
    )
    latents_names: str | None = Field(
        None, description="keys or uris of the rows of an .npy file: text, CSV or Parquet"
    )
    batch_size: int = Field(
        64, ge=1, le=65_536, description="images per forward; halved when memory runs out"
    )

    kinds: ClassVar[tuple[str, ...]] = ("model", "onnx", "hf", "python", "latents")
    only_for: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "weights": ("model",),
        **dict.fromkeys(("mean", "std"), ("onnx", "hf", "python")),
        **dict.fromkeys(
            ("scale", "layout", "input", "output", "tokens", "prefix_tokens"), ("onnx",)
        ),
        "pool": ("onnx", "hf"),
        "latents_names": ("latents",),
        "precision": ("model", "hf", "python"),
    }

    @field_validator("std")
    @classmethod
    def _can_be_divided_by(cls, std: Triple | None) -> Triple | None:
        if std is not None and min(std) <= 0:
            raise ValueError("the pixels are divided by it: give three numbers above 0")
        return std

    @model_validator(mode="after")
    def _says_its_normalisation(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("give mean and std together")
        if self.kind == "onnx" and self.mean is None:
            raise ValueError(
                "an ONNX file does not say how its pixels are normalised: give mean and std as "
                "it was trained with, or [0, 0, 0] and [1, 1, 1] where it does so inside"
            )
        return self
