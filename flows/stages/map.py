"""Stage 3: the mapping from the teacher's latent space to the student's width."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from flows.config.run import RunConfig
from flows.data.caches import Extracted
from flows.data.embedding import Transform
from flows.data.features import Latents, evaluation_latents, taught_latents, taught_tokens
from flows.provenance import provenance
from flows.reporting.base import reporter
from flows.stages.ensure import ensure_artifact
from flows.stages.ids import mapping_name, mapping_spec, mapping_width
from flows.stages.results import Indexed, Mapped
from storage.artifacts import read_file, read_record
from storage.root import Root
from tintem_core.errors import InputError
from tintem_core.evaluation.cosine import unit_rows
from tintem_core.evaluation.pairs import angle_preservation
from tintem_core.mapping.closed_form import orthogonality_error
from tintem_core.mapping.fit import FittedMapping, fit_mapping, start_mapping
from tintem_core.mapping.module import Mapping
from tintem_core.models.device import choose_device

_TENSORS = "mapping.safetensors"


_ROWS_AT_ONCE = 4096
_ROWS_LOOKED_AT = 512
# Above what float16 rounds away, far below any two photos that differ.
_LEAST_VARIANCE = 1e-5


def fit(config: RunConfig, root: Root, indexed: Indexed, extracted: Extracted) -> Mapped:
    """Make sure that the mapping exists; held-out photos tell how well it keeps angles."""
    spec = mapping_spec(config, extracted.identity(), indexed.data, mapping_width(config))
    mapping_id = mapping_name(config, spec)
    record, reused = ensure_artifact(
        root, "mappings", mapping_id, lambda: _fit(config, root, spec, indexed, extracted)
    )
    return Mapped(id=mapping_id, record=record, reused=reused)


def _fit(
    config: RunConfig,
    root: Root,
    spec: dict[str, object],
    indexed: Indexed,
    extracted: Extracted,
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Fit and measure; return the mapping's files and its record."""
    width = mapping_width(config)
    train = taught_latents(root, extracted, indexed.data, "train")
    _refuse_constant(indexed.data.name, train)
    tokens = None
    if config.cache.full_tokens:
        tokens = taught_tokens(root, extracted, indexed.data, "train")
    if config.cache.keep_mapped:
        reporter().note(
            "the mapping is fitted on global embeddings alone: with cache.keep_mapped there are "
            "no tokens yet to fit it on"
        )
    rows, dim = train.views * len(train), train.shape[-1]
    if config.mapping.fit == "joint":
        mapping = start_mapping(config.mapping, _sampler(train), rows, dim, width)
        fitted = FittedMapping(
            mapping.plain().eval(), [], orthogonality_error(mapping.linear.weight), 0.0
        )
    else:
        # A closed form is one pass over the embeddings.
        total, unit = min(rows, config.mapping.moment_rows), "embeddings"
        if config.mapping.descends:
            total, unit = config.mapping.steps, "steps"
        done = 0
        with reporter().track("Fit mapping", total, unit) as advance:

            def progress(now: int, _total: int) -> None:
                nonlocal done
                advance(now - done)
                done = now

            fitted = fit_mapping(
                config.mapping,
                _sampler(train),
                rows=rows,
                dim=dim,
                width=width,
                progress=progress,
                sample_tokens=None if tokens is None else _sampler(tokens),
                device=choose_device(config.runtime.device),
            )
            progress(total, total)
    held_out = evaluation_latents(root, extracted, indexed.data, "test")
    preserved = angle_preservation(held_out, apply(fitted.mapping, held_out))
    record = {
        "spec": spec,
        "teacher_width": dim,
        "metrics": {"orthogonality_error": fitted.orthogonality, **preserved},
        "curve": fitted.curve,
        "seconds": round(fitted.seconds, 2),
        "provenance": provenance(),
    }
    files = {_TENSORS: save({k: v.contiguous() for k, v in fitted.mapping.state_dict().items()})}
    return files, record


def _refuse_constant(name: str, latents: Latents) -> None:
    """Raises InputError where the teacher says the same of all photos."""
    rows = np.unique(np.linspace(0, len(latents) - 1, _ROWS_LOOKED_AT).astype(np.int64))
    found = latents.take(np.zeros_like(rows), rows).astype(np.float64)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    directions = np.divide(found, lengths, out=np.zeros_like(found), where=lengths > 0)
    # 1 minus the mean cosine of all pairs, a photo with itself included.
    variance = 1 - np.square(directions.mean(axis=0)).sum()
    if not variance > _LEAST_VARIANCE:
        raise InputError(
            f"the teacher gives nearly the same embedding for all photos of {name} (1 - their mean "
            f"cosine is {variance:.1g}): there is nothing to learn. Look whether the photos "
            "differ, whether data.bits is right, and whether the teacher's weights and "
            "preprocessing are its own."
        )


def load_mapping(config: RunConfig, root: Root, mapped: Mapped) -> Mapping:
    """Load a stored mapping, frozen; of a joint fit, where it starts."""
    tensors = load(read_file(root, "mappings", mapped.id, _TENSORS))
    dim, width = mapped.record["teacher_width"], mapped.record["spec"]["width"]
    return Mapping.from_state(config.mapping, dim, width, tensors).eval().requires_grad_(False)


def through_mapping(config: RunConfig, root: Root, mapping_id: str) -> Transform:
    """Return a stored mapping as what tokens go through, on the run's device.

    Raises:
        InputError: if it is not there.
    """
    record = read_record(root, "mappings", mapping_id)
    if record is None:
        raise InputError(
            f"{root.url} holds no mapping {mapping_id}, which the cached tokens went through: "
            "`tintem map CONFIG.yaml` fits it again."
        )
    device = choose_device(config.runtime.device)
    mapping = load_mapping(config, root, Mapped(id=mapping_id, record=record, reused=True)).to(
        device
    )
    if device.startswith("cuda"):
        # The threads that embed have streams of their own, which do not wait for this copy.
        torch.cuda.synchronize(device)
    return mapping


def mean_target(
    config: RunConfig, root: Root, mapped: Mapped, latents: Latents
) -> torch.Tensor | None:
    """Return the mean of the unit mapped embeddings of some images' first views, float32 (K,).

    Of images evenly spread over the list, where they are more than ``mapping.moment_rows``; None
    for a training without the centred term, or whose mapping changes in every step.
    """
    training = config.training
    if not training.kind.uses_mapping or not training.centred_weight:
        return None
    if config.mapping.fit == "joint":
        return None
    mapping = load_mapping(config, root, mapped)
    rows = np.arange(0, len(latents), -(-len(latents) // config.mapping.moment_rows))
    total = np.zeros(mapping.linear.out_features)
    for part in np.array_split(rows, -(-len(rows) // _ROWS_AT_ONCE)):
        found = latents.take(np.zeros_like(part), part).astype(np.float32)
        total += unit_rows(apply(mapping, found)).sum(axis=0, dtype=np.float64)
    return torch.from_numpy((total / len(rows)).astype(np.float32))


def joint_start(config: RunConfig, mapping: Mapping) -> Mapping:
    """Make a stored start trainable again, with the head that the config asks for."""
    dim, width = mapping.linear.in_features, mapping.linear.out_features
    live = Mapping(dim, width, config.mapping.head)
    if config.mapping.head == "orthogonal":
        live.set_weight(mapping.linear.weight)
    else:
        live.load_state_dict(mapping.state_dict())
    return live


def _sampler(latents: Latents) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    """Number the rows of all views of all images through."""

    def sample(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        views, images = np.divmod(rows, len(latents))
        return latents.take(views, images).astype(np.float32)

    return sample


def apply(mapping: Mapping, latents_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map stored latents (N, D) to (N, K)."""
    with torch.inference_mode():
        mapped: NDArray[np.float32] = mapping(torch.from_numpy(latents_ND)).numpy()
    return mapped
