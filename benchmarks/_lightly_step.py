"""Time LightlyTrain's distillation step; run by the interpreter that has it, see payoff.py.

Prints the seconds of each step after the first one as JSON, wait for the data included.
Usage: python _lightly_step.py PHOTOS OUT TEACHER STUDENT BATCH STEPS
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
from lightly_train._methods.distillationv3.distillationv3 import DistillationV3

MOMENTS: list[float] = []
step = DistillationV3.training_step_impl


def noted(self: DistillationV3, *args: Any, **kwargs: Any) -> Any:
    """Note when each step begins; its trainer takes no callbacks from outside."""
    MOMENTS.append(time.perf_counter())
    return step(self, *args, **kwargs)


def main() -> None:
    photos, out, teacher, student, batch, steps = sys.argv[1:]
    DistillationV3.training_step_impl = noted
    images = len(list(Path(photos).iterdir()))
    per_epoch = images // int(batch)
    lightly_train.pretrain(
        out=out,
        data=photos,
        model=f"timm/{student}",
        method="distillationv3",
        method_args={"teacher": teacher},
        epochs=-(-(int(steps) + 2) // per_epoch),
        batch_size=int(batch),
        num_workers=0,
        accelerator="cpu",
        devices=1,
        precision="32-true",
        overwrite=True,
        loggers={"tensorboard": None},
        callbacks={"model_checkpoint": None},
        transform_args={"image_size": (224, 224)},
    )
    seconds = [after - before for before, after in itertools.pairwise(MOMENTS)]
    print(json.dumps({"version": lightly_train.__version__, "seconds": seconds[1:]}))


if __name__ == "__main__":
    main()
