"""Stage 3: the mapping from the teacher's latent space to the student's width."""

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from flows.config import RunConfig
from flows.provenance import provenance
from flows.reporting import reporter
from flows.stages.datasets import Dataset
from flows.stages.results import Extracted, Indexed, Mapped
from storage.artifact import read_file, read_record, write_artifact
from storage.cache import FeatureCache
from storage.identity import make_id
from storage.root import Root
from tintem_core.mapping import Mapping, angle_preservation, fit_mapping
from tintem_core.students import natural_width

_TENSORS = "mapping.safetensors"


def fit(config: RunConfig, root: Root, indexed: Indexed, extracted: Extracted) -> Mapped:
    """Make sure that the mapping exists; held-out photos tell how well it keeps angles."""
    width = config.mapping.width or natural_width(config.student)
    spec = {
        "cache": extracted.views,
        "images": indexed.data.digest("train"),
        "mapping": config.mapping.model_dump(exclude={"width"}),
        "width": width,
    }
    mapping_id = make_id(f"{config.mapping.objective}-{width}-{config.data.name}", spec)
    record = read_record(root, "mappings", mapping_id)
    if record is not None:
        reporter().note(f"mapping {mapping_id}: reused")
        return Mapped(mapping_id, record, reused=True)

    train = FeatureCache.open(root, extracted.views).reader(indexed.data.keys("train"))
    dim = train.shape[0]

    def sample(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        views, images = np.divmod(rows, len(train))
        return train.take(views, images).astype(np.float32)

    with reporter().track("Fit mapping", config.mapping.steps, "steps") as advance:
        fitted = fit_mapping(
            config.mapping,
            sample,
            rows=train.views * len(train),
            dim=dim,
            width=width,
            progress=lambda _done, _total: advance(1),
        )
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
    write_artifact(root, "mappings", mapping_id, files, record)
    return Mapped(mapping_id, record, reused=False)


def load_mapping(config: RunConfig, root: Root, mapped: Mapped) -> Mapping:
    """Load a stored mapping, frozen."""
    tensors = load(read_file(root, "mappings", mapped.id, _TENSORS))
    dim, width = mapped.record["teacher_width"], mapped.record["spec"]["width"]
    return Mapping.from_state(config.mapping, dim, width, tensors).eval().requires_grad_(False)


def apply(mapping: Mapping, latents_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map stored latents (N, D) to (N, K)."""
    with torch.inference_mode():
        mapped: NDArray[np.float32] = mapping(torch.from_numpy(latents_ND)).numpy()
    return mapped


def evaluation_latents(
    root: Root, extracted: Extracted, dataset: Dataset, split: str | None
) -> NDArray[np.float32]:
    """Return the teacher's embeddings of the evaluation view: (N, D), in the order of its keys."""
    cache = FeatureCache.open(root, extracted.evaluation[dataset.name])
    return cache.reader(dataset.keys(split)).all(view=0).astype(np.float32)
