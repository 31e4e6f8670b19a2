"""What can be known to be wrong before any work starts."""

import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from flows.config.cluster import require_ray
from flows.config.run import RunConfig, RuntimeConfig
from flows.data.code import python_identity
from flows.data.latents import StoredLatents
from flows.data.weights import initial_weights
from flows.provenance import provenance
from flows.stages.following import require_tensorboard
from flows.stages.licences import require_license
from flows.stages.measure_masks import refuse_no_masks
from flows.stages.models import known_teacher
from flows.stages.tracking import require_mlflow
from flows.stages.training_data import refuse_unlabelled
from storage.errors import SourceError
from storage.identity import digest
from storage.images import open_reader
from tintem_core.errors import InputError, NotApplicableError
from tintem_core.evaluation.ood import SCORES
from tintem_core.export.formats import Subject, export_format
from tintem_core.models.student import build_student, natural_width
from tintem_core.training.state import check_optimizer
from tintem_core.views import ViewRecipe, render_view


def preflight(config: RunConfig) -> None:
    """Build teachers and student once.

    Raises:
        InputError: an unknown model, weights that do not fit, a width that cannot be reached, a
            cluster without Ray, TensorBoard files or MLflow without the package.
    """
    if config.runtime.cluster is not None:
        require_ray()
    require_tensorboard(config)
    require_mlflow(config)
    _check_machine(config.runtime)
    _require_labels(config)
    if config.evaluation.masks is not None:
        uris = open_reader(config.data).entries()["uri"].to_list()
        refuse_no_masks(config.evaluation.masks, config.data.name, uris)
    _require_groups(config)
    natural = natural_width(config.student)
    check_optimizer(config.training)
    if config.views.recipe.name == "timm":
        _try_policy(config.views.recipe)
    if config.student.weights is not None:
        initial_weights(config)
    teachers = [known_teacher(each, config.runtime.device) for each in config.teachers]
    require_license(config, teachers[0])
    names = " and ".join(each.name for each in config.teachers)
    width, available = config.mapping.width or natural, sum(t.width for t in teachers)
    if width > available:
        raise InputError(
            f"the student's embedding would be {width} wide, but {names} has only {available} "
            "dimensions to compress: set mapping.width to at most that."
        )
    for teacher in teachers:
        if isinstance(teacher, StoredLatents):
            continue
        tokens, embedding = teacher.backbone.token_width, teacher.backbone.width
        if config.cache.tokens and tokens != embedding:
            raise InputError(
                f"the patch tokens of {teacher.config.name} are {tokens} wide, its embedding "
                f"{embedding}: one mapping cannot serve both. Set cache.tokens to false, or choose "
                "another teacher."
            )
    shapes = [teacher.describe(tokens=config.cache.tokens) for teacher in teachers]
    count = shapes[0]["tokens"][0] if config.training.needs_tokens else None
    try_student(config, width, count)


def _require_labels(config: RunConfig) -> None:
    """Refuse photos of which none has a label, where one is needed: listing them opens none."""
    score, data = config.evaluation.ood_score, config.data
    by_classes = SCORES[score].needs_labels
    fine_tuned = config.evaluation.fine_tune_epochs > 0
    if not (config.training.kind.needs_labels or by_classes or fine_tuned):
        return
    entries = open_reader(data).entries()
    if entries["label"].null_count() < len(entries):
        return
    if config.training.kind.needs_labels:
        refuse_unlabelled(data.name, [None] * len(entries))
    if fine_tuned:
        raise InputError(
            f"evaluation.fine_tune_epochs trains on labels, and no photo of {data.name} has one: "
            "give data.label_column or class folders, or set it to 0."
        )
    raise InputError(
        f"evaluation.ood_score '{score}' compares classes, and no photo of {data.name} has a "
        "label: give data.label_column or class folders, or choose another score."
    )


def _require_groups(config: RunConfig) -> None:
    """Refuse columns that are not there; one file of the source tells."""
    if config.evaluation.groups:
        try:
            open_reader(config.data).notes(config.evaluation.groups, 1)
        except SourceError as error:
            raise InputError(f"evaluation.groups: {error}") from error


def _check_machine(runtime: RuntimeConfig) -> None:
    """Refuse what would take this machine down."""
    cores = os.cpu_count() or 1
    memory = psutil.virtual_memory().total
    started = {
        "runtime.processes": (runtime.processes, max(cores, torch.cuda.device_count())),
        "runtime.loader_workers": (
            (runtime.loader_workers or 0) * runtime.processes,
            4 * cores + 4,
        ),
        "runtime.decode_threads": (runtime.decode_threads or 0, 16 * cores),
    }
    for name, (wanted, most) in started.items():
        if wanted > most:
            raise InputError(
                f"{name} would start {wanted:,} on this machine of {cores} cores: set it so that "
                f"at most {most} are."
            )
    for name in ("memory_gb", "latents_memory_gb"):
        if getattr(runtime, name) * 1e9 > memory:
            raise InputError(
                f"runtime.{name} is {getattr(runtime, name):g}, but this machine has "
                f"{memory / 1e9:.0f} GB of memory: set it to a part of that."
            )


def try_student(config: RunConfig, width: int, tokens: int | None) -> None:
    """Make sure that a student of this kind can be trained and exported.

    Tried once per user and kind, and remembered in the user's cache folder.

    Args:
        config: the run.
        width: K.
        tokens: how many patch tokens the teacher has, where they are compared.

    Raises:
        InputError: if it cannot.
    """
    kind = {
        "student": config.student.model_dump(include={"model", "image_size", "stages", "options"}),
        **python_identity(config.student),
        "width": width,
        "tokens": tokens,
        "formats": list(config.export.formats),
        "packages": provenance()["packages"],
    }
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tintem" / "tried"
    tried = folder / digest(kind)
    if tried.exists():
        return
    _try_student(config, width, tokens)
    # A folder that cannot be written to costs some seconds each time.
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        tried.touch()


def _try_student(config: RunConfig, width: int, tokens: int | None) -> None:
    """Train the untrained student on two images and export it: nothing fails after hours."""
    name, size = config.student.name, config.student.image_size
    student = build_student(config.student, width, 0, tokens=tokens is not None)
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    doing = "trained"
    try:
        with torch.random.fork_rng(devices=[]):
            if tokens is None:
                embedding = student(pixels)
                embedding.mean().backward()
            else:
                embedding, patches = student.with_tokens(pixels, tokens)
                (embedding.mean() + patches.mean()).backward()  # type: ignore[no-untyped-call]
        if tuple(embedding.shape) != (2, width):
            raise ValueError(f"it gives {tuple(embedding.shape[1:])} numbers, not {width}")
        if not embedding.isfinite().all():
            raise ValueError("it gives numbers that are not finite")
        doing = "exported"
        # Machines that only train have none of it.
        if all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
            subject = Subject(student, size)
            for form in map(export_format, config.export.formats):
                # What is left out where it does not fit cannot fail an export.
                if form.is_exact:
                    with suppress(NotApplicableError):
                        form.files(subject)
    except InputError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"student.{config.student.kind}: {name} at {size} px cannot be {doing}: {reason[0]}. "
            "Choose another model, or another student.image_size or student.options."
        ) from error


def _try_policy(recipe: ViewRecipe) -> None:
    """Cut one view: timm reads the policy only then, and asserts."""
    grey = Image.fromarray(np.full((32, 32, 3), 128, np.uint8))
    try:
        render_view(grey, "", 0, recipe, 32, 32)
    except (AssertionError, ValueError, KeyError) as error:
        raise InputError(
            f"views.recipe.augment: '{recipe.augment}' is no RandAugment policy of timm; "
            "'rand-m9-mstd0.5-inc1' is one."
        ) from error
