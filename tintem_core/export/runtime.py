"""Exported ONNX files in ONNX Runtime: no torch.

Legend: ``B`` batch, ``T`` patch tokens, ``K`` student width, ``S`` side in pixels.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tintem_core.views import Pixels

NORMALISED, PIXELS, IMAGE = "pixel_values", "pixels", "image"
"""Inputs: normalised, float32 0..1, and uint8."""
EMBEDS, OUTPUT = "image_embeds", "embedding"
"""Outputs: as transformers names it, and as the files of this project do."""
TOKENS = "last_hidden_state"
"""Output beside the embedding, (B, T, K), of students that were trained with patch tokens."""
SCORE, IS_OUTLIER = "ood_score", "is_ood"
"""Outputs of the format `ood` beside the embedding, both (B,): float32, and bool."""


def session(model: bytes, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Open an exported model in ONNX Runtime on the CPU.

    Args:
        model: the file.
        threads: that compute, and keep their cores while they wait, as a service does; None: one
            per core, which leave them to others.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    else:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_onnx(
    opened: onnxruntime.InferenceSession,
    pixels: Pixels,
    normalisation: Mapping[str, Sequence[float]] | None = None,
) -> NDArray[np.float32]:
    """Embed uint8 images (B, S, S, 3) with an opened model; returns (B, K).

    Args:
        opened: takes one of the inputs above.
        pixels: the images.
        normalisation: ``mean`` and ``std`` per channel, for a model that takes normalised pixels.
    """
    return outputs_of(opened, pixels, normalisation)[0]


def outputs_of(
    opened: onnxruntime.InferenceSession,
    pixels: Pixels,
    normalisation: Mapping[str, Sequence[float]] | None = None,
) -> list[NDArray[np.float32]]:
    """Return all that an opened model tells of images, in its order; see :func:`run_onnx`."""
    (wanted,) = opened.get_inputs()
    batch: NDArray[np.generic] = np.ascontiguousarray(pixels)
    if wanted.name != IMAGE:
        values = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C") / np.float32(255)
        if wanted.name == NORMALISED:
            assert normalisation is not None
            mean, std = (
                np.array(normalisation[name], np.float32)[:, None, None] for name in ("mean", "std")
            )
            values = (values - mean) / std
        batch = values
    # The embedding comes first, whatever else a model tells.
    found: list[NDArray[np.float32]] = opened.run(None, {wanted.name: batch})
    return found
