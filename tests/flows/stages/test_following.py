"""A training is followed while it goes on, and its curve survives a kill."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flows.config.load import parse_config
from flows.reporting.base import reporting_to
from flows.stages import following, train
from flows.stages.checkpoints import save_checkpoint
from flows.stages.following import Follower
from flows.stages.pipeline import Pipeline
from flows.stages.preflight import preflight
from tests.runs import Notes
from tintem_core.errors import InputError

LOSS = "training/loss"


class KilledError(Exception):
    """Stands for a kill."""


def followed(settings: dict[str, Any], **runtime: Any) -> tuple[Pipeline, Notes]:
    run = {**settings, "runtime": {**settings["runtime"], **runtime}}
    pipeline, notes = Pipeline(parse_config(run, "test")), Notes()
    with reporting_to(notes):
        assert pipeline.trained
    return pipeline, notes


def events(pipeline: Pipeline) -> EventAccumulator:
    found = EventAccumulator(f"{pipeline.root.url}/tensorboard/{pipeline.trained.id}")
    found.Reload()
    return found


def scalars(found: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(tag)]


def test_the_loss_is_told_while_it_trains(settings: dict[str, Any]) -> None:
    pipeline, notes = followed(settings)
    (*_, last) = notes.said["Train test_resnet"]
    assert last.startswith("loss ")
    assert last.endswith(" images/s")
    assert notes.work["Train test_resnet"] == pipeline.trained.record["steps"]
    assert not (Path(pipeline.root.url) / "tensorboard").exists()


def test_a_loss_is_looked_at_once_a_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=lambda: now))
    run: Any = SimpleNamespace(step=0, optimizer=SimpleNamespace(param_groups=[{"lr": 0.001}]))
    told: list[str] = []

    def advance(done: int, /, says: str = "") -> None:
        told.append(says)

    follower = Follower(run, 8, 64, advance, None)
    for step in range(1, 9):
        now += 0.3
        follower.step(step, torch.tensor(1 / step))
    looked = [place for place, says in enumerate(told, 1) if says]
    assert looked == [4, 8]
    assert told[3] == "loss 0.25, rate 0.001, 213 images/s"


def test_tensorboard_has_every_step_once_after_a_kill(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["training"] |= {"select": "best", "validation_share": 0.3, "validate_every": 1}
    settings["training"] |= {"batch_size": 4}
    plain, _ = followed(settings)
    whole, _ = followed({**settings, "root": settings["root"] + "-whole"}, tensorboard=True)
    assert whole.trained.id == plain.trained.id
    settings["root"] += "-killed"

    def save(root: Any, student: str, step: int, total: int, data: bytes) -> None:
        if step <= 5:
            save_checkpoint(root, student, step, total, data)

    def die(follower: Follower, step: int, loss: torch.Tensor) -> None:
        if step == 9:
            raise KilledError
        seen(follower, step, loss)

    seen = Follower.step
    with monkeypatch.context() as patch:
        patch.setattr(train, "save_checkpoint", save)
        patch.setattr(Follower, "step", die)
        with pytest.raises(KilledError):
            followed(settings, tensorboard=True, checkpoint_seconds=0)
    killed, _ = followed(settings, tensorboard=True)
    assert killed.trained.record["resumed_at_step"] == 5

    found, wanted = events(killed), events(whole)
    assert [step for step, _ in scalars(found, LOSS)] == list(
        range(1, killed.trained.record["steps"] + 1)
    )
    (validation,) = (tag for tag in found.Tags()["scalars"] if tag.startswith("validation/"))
    for tag in (LOSS, "training/learning_rate", validation):
        assert scalars(found, tag) == scalars(wanted, tag)
    history = pl.read_parquet(f"{killed.root.url}/students/{killed.trained.id}/history.parquet")
    assert [value for _, value in scalars(found, validation)] == pytest.approx(
        history["validation"].to_list()
    )


def test_what_tensorboard_needs_is_known_before_any_work(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["runtime"]["tensorboard"] = True
    with pytest.raises(InputError, match=r"s3://bucket/x is none: set it to false"):
        preflight(parse_config({**settings, "root": "s3://bucket/x"}, "test"))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        following, "find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    with pytest.raises(InputError, match=r"pip install 'tintem\[tensorboard\]'"):
        preflight(parse_config(settings, "test"))
