"""Which rows a mapping is fitted on, and what they count."""

import numpy as np
import torch
from numpy.typing import NDArray

from tintem_core.mapping.config import MappingConfig
from tintem_core.mapping.fit import fit_mapping, mapping_loss, start_mapping

D, K = 24, 10
Floats = NDArray[np.float32]


def _latents(count: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return (rng.normal(0.2, 1, (count, D)) * np.linspace(3, 0.1, D)).astype(np.float32)


def test_rows_from_everywhere_in_a_cache_decide_on_the_closed_form() -> None:
    """Photos lie in the order of their folders: the first thousand may all be of one class."""
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.normal(size=(D, D)))[0].astype(np.float32)
    latents = np.zeros((1000, D), np.float32)
    latents[:900] = rng.normal(size=(900, 5)).astype(np.float32) @ turned[:5]
    latents[900:] = rng.normal(size=(100, 5)).astype(np.float32) @ turned[5:10]
    config = MappingConfig(objective="svd", moment_rows=200)
    fitted = fit_mapping(config, lambda rows: latents[rows], 1000, D, K)
    kept = fitted.mapping(torch.from_numpy(latents)).norm(dim=1)
    torch.testing.assert_close(kept, torch.from_numpy(latents).norm(dim=1), rtol=1e-4, atol=1e-4)


def test_with_tokens_the_angles_between_images_are_fitted_too() -> None:
    latents = _latents(64)
    tokens = np.random.default_rng(1).normal(size=(64, 4, D)).astype(np.float32)
    config = MappingConfig(
        objective="cosine", start="random", steps=60, batch_size=64, learning_rate=2e-2
    )
    start = start_mapping(config, lambda rows: latents[rows], 64, D, K)
    fitted = fit_mapping(
        config, lambda rows: latents[rows], 64, D, K, sample_tokens=lambda rows: tokens[rows]
    )
    images = torch.from_numpy(latents)
    before, after = (
        mapping_loss(config, mapping, images).item() for mapping in (start, fitted.mapping)
    )
    assert after < before / 2


def test_a_seed_draws_batches_of_its_own() -> None:
    latents = _latents(200)
    asked: list[list[int]] = []

    def sample(rows: NDArray[np.int64]) -> Floats:
        asked.append(rows.tolist())
        return latents[rows]

    for seed in (0, 0, 1):
        config = MappingConfig(
            objective="cosine", seed=seed, steps=1, batch_size=16, axes="principal"
        )
        fit_mapping(config, sample, 200, D, K)
    first, again, other = (rows for rows in asked if len(rows) == 16)
    assert first == again != other
