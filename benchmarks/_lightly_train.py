"""LightlyTrain's distillation; run by the interpreter that has it, see payoff.py and versus.py.

Prints as JSON its version, the seconds of each step after the first one, wait for the data
included, and of all from the first step to the last.
Usage: python _lightly_train.py SETTINGS, a JSON file:

photos, out     folders
student         name of a timm model, from random weights
teacher         LightlyTrain's name of a teacher, or name and weights (.safetensors) of a timm model
stages          null, or how many of the teacher's first stages are the student, with its weights
batch, epochs, image_size, seed
steps           instead of epochs: at least so many
learning_rate   null: its own choice
mean, std       what both models want their pixels normalised with; null: its own choice
keep            null, or a .safetensors file for the student (backbone.*) and its head (head.*)
"""

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

# Where the registry's torchvision does not fit torch, as for ourselves.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import tintem_core._torchvision_guard  # noqa: F401, I001
import lightly_train
import timm
import torch
from lightly_train._methods.distillationv3.distillationv3 import DistillationV3
from lightly_train._models.timm import timm as wrapping
from safetensors.torch import load_file, save_file

MOMENTS: list[float] = []
TRAINED: list[DistillationV3] = []
step = DistillationV3.training_step_impl


def noted(self: DistillationV3, *args: Any, **kwargs: Any) -> Any:
    """Note when each step begins, and of what; its trainer takes no callbacks from outside."""
    MOMENTS.append(time.perf_counter())
    TRAINED[:] = [self]
    return step(self, *args, **kwargs)


def main() -> None:
    wanted = json.loads(Path(sys.argv[1]).read_text())
    DistillationV3.training_step_impl = noted
    per_epoch = len(list(Path(wanted["photos"]).iterdir())) // wanted["batch"]
    size = (wanted["image_size"], wanted["image_size"])
    transforms: dict[str, Any] = {"image_size": size}
    if wanted["mean"] is not None:
        transforms["normalize"] = {"mean": tuple(wanted["mean"]), "std": tuple(wanted["std"])}
    rate = wanted["learning_rate"]
    lightly_train.pretrain(
        out=wanted["out"],
        data=wanted["photos"],
        model=student(wanted),
        method="distillationv3",
        method_args={"teacher": teacher(wanted["teacher"])},
        epochs=wanted["epochs"] or -(-(wanted["steps"] + 2) // per_epoch),
        batch_size=wanted["batch"],
        num_workers=0,
        accelerator="cpu",
        devices=1,
        precision="32-true",
        seed=wanted["seed"],
        overwrite=True,
        loggers={"tensorboard": None},
        callbacks={"model_checkpoint": None},
        optim_args=None if rate is None else {"lr": rate},
        transform_args=transforms,
    )
    took = time.perf_counter() - MOMENTS[0]
    if wanted["keep"]:
        keep(Path(wanted["keep"]))
    seconds = [after - before for before, after in itertools.pairwise(MOMENTS)]
    print(
        json.dumps(
            {"version": lightly_train.__version__, "seconds": seconds[1:], "seconds_in_all": took}
        )
    )


def teacher(wanted: Any) -> Any:
    """Return what LightlyTrain takes as a teacher."""
    if isinstance(wanted, str):
        return wanted
    return whole(with_weights(*wanted))


def student(wanted: dict[str, Any]) -> Any:
    """Return what LightlyTrain takes as a student."""
    if wanted["stages"] is None:
        return f"timm/{wanted['student']}"
    model = with_weights(*wanted["teacher"])
    model.prune_intermediate_layers([wanted["stages"] - 1], prune_norm=False, prune_head=True)
    model.reset_classifier(0, "avg")
    size = wanted["image_size"]
    with torch.no_grad():
        # timm leaves the width of the whole model.
        model.num_features = model.eval().forward_features(torch.zeros(1, 3, size, size)).shape[1]
    return whole(model.train())


def with_weights(name: str, weights: str) -> Any:
    """Build a timm model, and load its weights."""
    model = timm.create_model(name, num_classes=0)
    told = model.load_state_dict(load_file(weights), strict=False)
    assert not told.missing_keys
    # Its classifier is no part of an embedding.
    assert all(key.startswith("classifier.") for key in told.unexpected_keys), told
    return model


def whole(model: Any) -> Any:
    """Wrap a timm model as LightlyTrain does, but for its features.

    Of an EfficientNet and of a MobileNetV2 it would take what the last block gives, in fewer
    channels than the model says that its features have, and end with a shape error.
    """
    wrapped = wrapping.TIMMModelWrapper(model)
    wrapped._forward_features = wrapping._forward_features
    return wrapped


def keep(target: Path) -> None:
    """Write the trained student and its head to a file that needs no LightlyTrain."""
    trained = TRAINED[0]
    parts = {
        "backbone": trained.student_embedding_model.wrapped_model.get_model(),
        "head": trained.student_projection_head_global,
    }
    tensors = {
        f"{part}.{name}": tensor.contiguous()
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    save_file(tensors, target)


if __name__ == "__main__":
    main()
