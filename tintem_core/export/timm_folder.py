"""A student as a folder that `timm.create_model("local-dir:…", pretrained=True)` takes.

Legend: ``B`` batch, ``K`` student width, ``S`` side in pixels.
"""

import copy
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from tintem_core.errors import NotApplicableError
from tintem_core.export.formats import Embed, ExportFormat, Subject
from tintem_core.export.web import CONFIG, as_json
from tintem_core.models.backbone import Backbone
from tintem_core.models.embedder import to_float
from tintem_core.models.student import Student
from tintem_core.views import Pixels

_SMALLEST_COSINE = 0.999999


def as_timm(student: Student, image_size: int) -> nn.Module:
    """Return the student as one timm model; a projection becomes its classifier.

    Args:
        student: on the CPU.
        image_size: S.

    Raises:
        NotApplicableError: if timm has no such model.
    """
    backbone = student.backbone
    if not isinstance(backbone, Backbone):
        raise NotApplicableError("it is no model of timm")
    if backbone.removed:
        raise NotApplicableError("timm has no model of the first stages alone")
    model: Any = copy.deepcopy(backbone.model)
    if isinstance(student.projection, nn.Linear):
        width = student.projection.out_features
        try:
            model.reset_classifier(width)
            classifier = model.get_classifier()
        except (AttributeError, TypeError, AssertionError, NotImplementedError) as error:
            raise NotApplicableError("its timm model takes no classifier") from error
        if not isinstance(classifier, nn.Linear):
            raise NotApplicableError("its timm model's classifier is not one linear layer")
        if classifier.weight.shape != student.projection.weight.shape:
            raise NotApplicableError("its timm model's classifier sees other features")
        classifier.load_state_dict(student.projection.state_dict())
    model.eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, image_size, image_size, generator=generator)
    with torch.inference_mode():
        found, wanted = model((pixels - backbone.mean) / backbone.std), student.eval()(pixels)
    if found.shape != wanted.shape or not (
        torch.cosine_similarity(found, wanted).min() >= _SMALLEST_COSINE
    ):
        raise NotApplicableError("its timm model gives something else before its classifier")
    return model


class TimmFolder(ExportFormat):
    """``model.safetensors`` and ``config.json`` in the layout of timm's ``save_for_hf``."""

    file = "model.safetensors"
    # It is torch, whose batches are the student's own.
    batch_sizes = (32,)

    def files(self, subject: Subject) -> dict[str, bytes]:
        student, size = subject.student.cpu(), subject.image_size
        model = as_timm(student, size)
        pixels = {
            "input_size": (3, size, size),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            **student.backbone.normalisation,
        }
        with tempfile.TemporaryDirectory() as folder:
            timm.models.save_for_hf(model, folder, safe_serialization=True, data_config=pixels)
            weights, config = ((Path(folder) / n).read_bytes() for n in (self.file, CONFIG))
        # transformers and transformers.js read the same file, and look for this.
        told = {"model_type": "timm_wrapper", **json.loads(config)}
        return {self.file: weights, CONFIG: as_json(told)}

    def open(self, files: Mapping[str, bytes]) -> Embed:
        with tempfile.TemporaryDirectory() as folder:
            for name in (self.file, CONFIG):
                (Path(folder) / name).write_bytes(files[name])
            model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        cfg = model.pretrained_cfg
        mean, std = (torch.tensor(cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))

        def embed(pixels: Pixels) -> NDArray[np.float32]:
            batch = to_float(torch.from_numpy(pixels), torch.device("cpu"))
            with torch.inference_mode():
                embeddings: NDArray[np.float32] = model((batch - mean) / std).numpy()
            return embeddings

        return embed


TIMM = TimmFolder()
