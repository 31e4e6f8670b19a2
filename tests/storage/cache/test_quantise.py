"""Embeddings as int8: each row keeps its own precision."""

import numpy as np

from storage.cache import KindSpec
from storage.cache.quantise import quantise


def test_short_rows_beside_long_ones_keep_their_angles():
    rng = np.random.default_rng(0)
    lengths = np.array([1e-4, 1, 1e4])[None, :, None]
    values = (rng.normal(size=(2, 3, 512)) * lengths).astype(np.float32)
    kind = KindSpec(shape=(512,), dims=("feature",), dtype="int8")
    small, scales = quantise(values, kind)
    assert (small.shape, scales.shape) == (values.shape, (2, 3))
    np.testing.assert_array_equal(np.abs(small).max(axis=2), 127)
    found = small * scales[..., None]
    dots = (found * values).sum(axis=2)
    cosines = dots / np.linalg.norm(found, axis=2) / np.linalg.norm(values, axis=2)
    assert cosines.min() > 0.9999
    # No number is further away than half a step.
    assert (np.abs(found - values) <= 0.5001 * scales[..., None]).all()
