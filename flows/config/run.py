"""One YAML file = one RunConfig: everything that a run depends on."""

from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from flows.config.cluster import ClusterConfig
from flows.config.evaluation import EvaluationConfig
from flows.config.export import ExportConfig
from flows.config.latents import refuse_beside_latents, with_latents_defaults
from flows.config.retraining import NightlyConfig
from flows.config.support import SupportConfig
from flows.config.sweep import SweepConfig
from flows.config.tracking import TrackingConfig
from storage.cache.spec import MOST_ROWS_PER_SHARD, Codec
from storage.images import SourceConfig
from tintem_core.losses import FEWEST_EMBEDDINGS
from tintem_core.mapping.config import MappingConfig
from tintem_core.models.config import StudentConfig, TeacherConfig
from tintem_core.training.config import TrainingConfig
from tintem_core.views import ViewRecipe


class OtherTeacherConfig(TeacherConfig, frozen=True, extra="forbid", allow_inf_nan=False):
    """One more teacher, beside the first."""

    weight: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="share of its cosines in the joint ones; the first teacher has 1",
    )

    def teacher(self) -> TeacherConfig:
        """Return what is true of it wherever it teaches."""
        return TeacherConfig.model_validate(self.model_dump(exclude={"weight"}))


class ViewsConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """The training views: how many are cached per image, and how they are cut."""

    count: int = Field(4, ge=1, le=256, description="cached training views per image")
    recipe: ViewRecipe = Field(ViewRecipe(), description="how a view is cut")

    @model_validator(mode="after")
    def _eval_views_are_all_the_same(self) -> "ViewsConfig":
        if self.recipe.name == "eval" and self.count > 1:
            raise ValueError("every view of recipe 'eval' is the same centre crop: set count to 1")
        if self.recipe.name == "corrupted":
            raise ValueError(
                "recipe 'corrupted' is what students are tested on (evaluation.corrupted_photos): "
                "choose light, timm or eval"
            )
        return self


class CacheConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """How teacher features are stored."""

    dtype: Literal["float16", "int8", "float32"] = Field(
        "float16",
        description="float16 (keeps cosines to about one in a million), int8 with one scale per "
        "row (half of that, cosines to some in ten thousand), or float32",
    )
    codec: Codec = Field(
        "none",
        description="zstd is for archives: every reader first unpacks the shards into "
        "runtime.copies_folder, see docs/scale.md; blosc (lz4 after a shuffle of bytes or bits) "
        "packs less. Counts when a cache is made; no part of its id",
    )
    tokens: bool = Field(False, description="store patch tokens too (for the local term)")
    keep_mapped: bool = Field(
        False, description="store patch tokens mapped to the student's width, not the teacher's"
    )
    rows_per_shard: int | None = Field(
        None,
        ge=1,
        le=MOST_ROWS_PER_SHARD,
        description="images per shard; null: about 32 MiB per shard",
    )
    stored_cosine: float = Field(
        0.999,
        gt=0,
        le=1,
        description="smallest cosine of the stored form to the teacher's float32, measured first",
    )
    truth_images: int = Field(
        8,
        ge=1,
        le=10_000,
        description="cached views embedded again before a training, to test the cache",
    )
    truth_cosine: float = Field(0.999, gt=0, le=1, description="what each of them must reach")

    @property
    def full_tokens(self) -> bool:
        """Whether patch tokens are stored as the teacher gives them."""
        return self.tokens and not self.keep_mapped


class RuntimeConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Settings that change how fast a run is and what it tells, never what comes out."""

    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:1"
    )
    decode_threads: int | None = Field(None, ge=1, le=1_024, description="null: one per core")
    loader_workers: int | None = Field(
        None,
        ge=0,
        le=1_024,
        description="processes that prepare training batches; null: 0 on a CPU",
    )
    memory_gb: float = Field(
        2.0, ge=0, le=1e6, description="training views kept in memory up to this size"
    )
    latents_memory_gb: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="a cache's embeddings are held in memory where they need no more than this; "
        "each process holds its own",
    )
    copies_folder: str | None = Field(
        None,
        description="where shards of an s3:// root or an archive are copied to while they are "
        "read; null: tintem/shards in the user's cache folder",
    )
    copies_gb: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="the oldest copies go above this size; null: 50, or half of the free disk",
    )
    checkpoint_seconds: float = Field(
        30.0, ge=0, le=1e7, description="time between two checkpoints"
    )
    tensorboard: bool = Field(
        False,
        description="write loss, learning rate and validations of every training for TensorBoard, "
        "into tensorboard/ below the root",
    )
    compile: bool = Field(False, description="torch.compile the training step (rounding differs)")
    processes: int = Field(
        1,
        ge=1,
        le=4_096,
        description="processes of this machine that train together, one for each GPU "
        "(rounding differs)",
    )
    cluster: ClusterConfig | None = Field(
        None, description="spread shards and students over a Ray cluster; null: stay in place"
    )


class RunConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A run, fully described."""

    root: str = Field("tintem-data", description="folder or s3://bucket/prefix of all results")
    data: SourceConfig = Field(description="the images to learn from")
    teacher: TeacherConfig = Field(description="the frozen model")
    other_teachers: tuple[OtherTeacherConfig, ...] = Field(
        (), description="further frozen models; the student learns all of their angles at once"
    )
    views: ViewsConfig = ViewsConfig()
    support: SupportConfig = SupportConfig()
    cache: CacheConfig = CacheConfig()
    mapping: MappingConfig = MappingConfig()
    student: StudentConfig = Field(description="the small model")
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    tracking: TrackingConfig = TrackingConfig()
    sweep: SweepConfig | None = Field(None, description="further students of the same cache")
    nightly: NightlyConfig = Field(NightlyConfig(), description="what a night does with new photos")

    @property
    def support_sources(self) -> tuple[SourceConfig, ...]:
        """The support images that students learn from, as far as they do."""
        learns = self.training.support > 0 and not self.training.kind.needs_labels
        return self.support.sources() if learns else ()

    @property
    def evaluation_view(self) -> float:
        """The share of the evaluation view; 0 where every training view is the evaluation view."""
        return 0.0 if self.views.recipe.name == "eval" else self.training.evaluation_view

    @property
    def teachers(self) -> tuple[TeacherConfig, ...]:
        """All teachers, the first one first."""
        return (self.teacher, *(other.teacher() for other in self.other_teachers))

    @property
    def teacher_weights(self) -> list[float]:
        """How much each teacher counts, in the order of `teachers`."""
        return [1.0, *(other.weight for other in self.other_teachers)]

    @model_validator(mode="before")
    @classmethod
    def _latents_leave_out_the_rest(cls, given: Any) -> Any:
        return with_latents_defaults(given)

    @model_validator(mode="after")
    def _latents_suffice(self) -> "RunConfig":
        if any(teacher.latents is not None for teacher in self.teachers):
            views, support = self.views.recipe.name, bool(self.support_sources)
            corrupted = bool(self.evaluation.corrupted_photos)
            refuse_beside_latents(
                views, support=support, tokens=self.cache.tokens, corrupted=corrupted
            )
        return self

    @model_validator(mode="after")
    def _dataset_names_differ(self) -> "RunConfig":
        sources = (self.data, *self.evaluation.ood, *self.support.sources())
        names = [source.name for source in sources]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"two datasets are named '{twice[0]}': give each its own name")
        if {"train", "test", "all"} & set(names[1:]):
            raise ValueError(
                "a set cannot be named 'train' or 'test', which are splits, nor 'all', which "
                "is all sets together"
            )
        return self

    @model_validator(mode="after")
    def _mapped_tokens_suffice(self) -> "RunConfig":
        if not self.cache.keep_mapped:
            return self
        if not self.cache.tokens:
            raise ValueError(
                "cache.keep_mapped is about patch tokens, which are not cached: "
                "set cache.tokens to true"
            )
        if self.mapping.fit == "joint":
            raise ValueError(
                "cache.keep_mapped stores tokens through a finished mapping, mapping.fit 'joint' "
                "changes it in every step: set mapping.fit to once"
            )
        if not self.training.kind.uses_mapping:
            raise ValueError(
                f"training.objective '{self.training.objective}' does not learn from mapped "
                "tokens: set cache.keep_mapped to false"
            )
        if self.other_teachers:
            raise ValueError(
                "cache.keep_mapped maps the tokens of one teacher, but other_teachers names more: "
                "set cache.keep_mapped to false"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> "RunConfig":
        if self.training.needs_tokens and not self.cache.tokens:
            raise ValueError(
                "training.local_weight compares patch tokens, which are not cached: "
                "set cache.tokens to true"
            )
        if self.training.views is not None and self.training.views > self.views.count:
            raise ValueError(
                f"training.views ({self.training.views}) is more than the {self.views.count} "
                "cached views: raise views.count"
            )
        at_once = self.training.batch_size // self.training.accumulation
        if self.mapping.fit == "joint" and at_once < FEWEST_EMBEDDINGS:
            raise ValueError(
                "mapping.fit 'joint' compares the photos of a piece with each other, at least "
                f"{FEWEST_EMBEDDINGS}: training.batch_size {self.training.batch_size} in "
                f"{self.training.accumulation} pieces (training.accumulation) is too little"
            )
        if self.mapping.fit == "joint" and not self.training.kind.uses_mapping:
            raise ValueError(
                f"training.objective '{self.training.objective}' trains no mapping: "
                "set mapping.fit to once"
            )
        return self

    @model_validator(mode="after")
    def _gpus_are_dealt_out_once(self) -> "RunConfig":
        at_once = None if self.sweep is None else self.sweep.at_once
        if self.runtime.processes > 1 and at_once is not None:
            raise ValueError(
                f"runtime.processes ({self.runtime.processes}) trains a student on several GPUs, "
                f"sweep.at_once ({at_once}) several students side by side: give one of them"
            )
        return self
