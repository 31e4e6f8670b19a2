"""The layout that transformers.js, fastembed, and loaders like them, read.

``onnx/model.onnx`` takes ``pixel_values`` and gives ``image_embeds``, of students that were trained
with patch tokens ``last_hidden_state`` too; ``preprocessor_config.json`` says how pixels become the
one, ``config.json`` what the model is.

Legend: ``B`` batch, ``K`` student width, ``S`` side in pixels.
"""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from tintem_core.export.formats import Embed, ExportFormat, Subject
from tintem_core.export.runtime import run_onnx, session

PREPROCESSOR, CONFIG = "preprocessor_config.json", "config.json"
# fastembed looks for it beside the model.
_BESIDE = f"onnx/{PREPROCESSOR}"
_LANCZOS = 1


def preprocessor(subject: Subject) -> dict[str, Any]:
    """Say how a photo becomes ``pixel_values``, in transformers' words.

    Lanczos, not the bicubic of the evaluation view: transformers.js resamples bicubic without
    antialiasing, which is another picture of a large photo, and Lanczos with it.
    """
    size = subject.image_size
    normalised = subject.student.backbone.normalisation
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": _LANCZOS,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": normalised["mean"],
        "image_std": normalised["std"],
    }


def as_json(content: Mapping[str, Any]) -> bytes:
    """Spell a configuration file."""
    return json.dumps(content, indent=2).encode()


class WebFormat(ExportFormat):
    """An ONNX file in this layout."""

    file = "onnx/model.onnx"

    def files(self, subject: Subject) -> dict[str, bytes]:
        told = as_json(preprocessor(subject))
        return {
            self.file: self.model(subject),
            PREPROCESSOR: told,
            _BESIDE: told,
            CONFIG: as_json({"model_type": "tintem_student"}),
        }

    def model(self, subject: Subject) -> bytes:
        """Return the ONNX file."""
        graph = subject.graph
        if subject.has_tokens:
            from tintem_core.export.onnx import to_graph

            graph = to_graph(subject.student, subject.image_size, subject.description, tokens=True)
        model: bytes = graph.SerializeToString()
        return model

    def open(self, files: Mapping[str, bytes]) -> Embed:
        told = json.loads(files[PREPROCESSOR])
        normalisation = {name: told[f"image_{name}"] for name in ("mean", "std")}
        return partial(run_onnx, session(files[self.file]), normalisation=normalisation)


WEB = WebFormat()
