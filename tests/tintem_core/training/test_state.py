"""What a checkpoint holds beside weights, and what precision changes of a step."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tintem_core.mapping.module import Mapping
from tintem_core.models.config import StudentConfig
from tintem_core.models.student import build_student
from tintem_core.objectives.base import Parts
from tintem_core.objectives.registry import build_objective
from tintem_core.training.config import TrainingConfig
from tintem_core.training.loop import train
from tintem_core.training.state import Batch, TrainingState, start_training

STUDENT = StudentConfig(model="test_vit", image_size=32)
DIM, WIDTH = 48, 32


def start(config: TrainingConfig) -> TrainingState:
    objective = build_objective(config.objective, Parts(Mapping(DIM, WIDTH), config), 0)
    return start_training(build_student(STUDENT, WIDTH, 0), objective, config, 1)


def batches(size: int = 8) -> Iterator[Batch]:
    rng = np.random.default_rng(0)
    while True:
        yield Batch(
            torch.from_numpy(rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)),
            torch.from_numpy(rng.normal(1, 1, (size, DIM)).astype(np.float32)),
        )


def test_a_resumed_training_scales_its_loss_as_it_did() -> None:
    config = TrainingConfig(epochs=1, batch_size=8, precision="float16")
    run, resumed = start(config), start(config)
    run.scaler.load_state_dict({**run.scaler.state_dict(), "scale": 8.0, "_growth_tracker": 5})
    resumed.restore(run.to_bytes())
    assert resumed.scaler.state_dict() == run.scaler.state_dict()


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_step_is_as_long_as_the_clipped_gradient_in_every_precision(precision: str) -> None:
    config = TrainingConfig.model_validate(
        {
            "epochs": 1, "batch_size": 8, "precision": precision, "clip_norm": 0.01,
            "optimizer": "sgd", "optimizer_options": {"momentum": 0.0, "nesterov": False},
            "learning_rate": 2.0, "weight_decay": 0.0, "warmup_epochs": 0,
        }
    )  # fmt: skip
    run = start(config)
    if precision == "float16":
        # What it starts with overflows, and the first step is left out.
        run.scaler.load_state_dict({**run.scaler.state_dict(), "scale": 64.0})
    before = [weight.detach().clone() for weight in run.learner.parameters()]
    train(run, batches(), config, 1, save=lambda _step, _data: None)
    moved = [
        (now.detach() - old).square().sum()
        for now, old in zip(run.learner.parameters(), before, strict=True)
    ]
    assert torch.stack(moved).sum().sqrt().item() == pytest.approx(0.02, rel=0.01)
