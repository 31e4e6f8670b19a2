"""A root that holds a file of every kind, and the ways in which a file may be damaged."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.config.load import load_config
from flows.config.run import RunConfig
from flows.experiments.record import Entry, write_sweep
from flows.retraining.run import RetrainingRun
from flows.stages import train
from flows.stages.pipeline import Pipeline
from storage.registry import current_version, promote
from tests.photos import photo
from tests.runs import small_run, write_config, write_teacher

LINE = "test-resnet-shapes"

KINDS = {
    "manifest": "manifests/*.json",
    "table of a manifest": "manifests/*.parquet",
    "record of a cache": "caches/*/record.json",
    "copy of a cache's record": "caches/*/record-copy.json",
    "metadata of a cache": "caches/*/metadata.json",
    "README of a cache": "caches/*/README.md",
    "zarr.json of a cache": "caches/*/zarr.json",
    "zarr.json of an array": "caches/*/global/zarr.json",
    "row table": "caches/*/rows/*.parquet",
    "record of rows": "caches/*/rows/*.json",
    "copy of a row table": "caches/*/rows/copies/*.parquet",
    "copy of a record of rows": "caches/*/rows/copies/*.json",
    "commit of a shard": "caches/*/commits/*.json",
    "shard": "caches/*/global/c/0/*/0",
    "record of a mapping": "mappings/*/record.json",
    "mapping": "mappings/*/mapping.safetensors",
    "record of a student": "students/*/record.json",
    "weights of a student": "students/*/student.safetensors",
    "training history": "students/*/history.parquet",
    "checkpoint": "students/*/checkpoints/*.pt",
    "progress of a training": "students/*/progress.json",
    "record of an evaluation": "evaluations/*/record.json",
    "measures": "evaluations/*/metrics.parquet",
    "measures of each class": "evaluations/*/classes.parquet",
    "OOD scores": "evaluations/*/ood_scores.parquet",
    "record of an export": "exports/*/record.json",
    "ONNX student": "exports/*/student.onnx",
    "ONNX mapping": "exports/*/mapping.onnx",
    "model card": "exports/*/card.md",
    "test vectors": "exports/*/vectors.npz",
    "verify.py": "exports/*/verify.py",
    "report": "exports/*/report.html",
    "record of a night": "nights/*/record.json",
    "report of a night": "nights/*/report.html",
    "version of a model": "latest/*/*.json",
    "pointer to the latest": "latest/*.json",
    "record of a sweep": "sweeps/*/record.json",
    "leaderboard of a sweep": "sweeps/*/leaderboard.parquet",
}
"""Every kind of file that a root holds; each pattern finds several of them."""


class StoppedError(Exception):
    """Ends a training after its first checkpoint."""


class Finished:
    """Two finished runs in one root, a night of each, two versions of a model, two trainings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.files = sorted(path for path in self.root.rglob("*") if path.is_file())

    def config(self, root: Path, name: str = "shapes") -> RunConfig:
        """Read the config of a run, with a copy of the root in the place of its own."""
        found = load_config(self.folder / f"{name}.yaml")
        return found.model_copy(update={"root": str(root)})

    def copy(self, to: Path) -> Path:
        """Copy the root; a copy made before in this place goes."""
        shutil.rmtree(to, ignore_errors=True)
        return Path(shutil.copytree(self.root, to))

    def files_of(self, kind: str) -> list[str]:
        """Name files of a kind, below the root: the first of each thing of the first run."""
        found = [str(p.relative_to(self.root)) for p in sorted(self.root.glob(KINDS[kind]))]
        mine = [path for path in found if "others" not in path and "-64px-shapes-eval" not in path]
        return list({path.split("/")[1]: path for path in reversed(mine)}.values())

    def another(self, kind: str, path: str) -> bytes:
        """Return the content of another file of a kind; of another release where all are alike."""
        own = (self.root / path).read_bytes()
        contents = [path.read_bytes() for path in sorted(self.root.glob(KINDS[kind]))]
        return next((data for data in contents if data != own), own + b"\n")


def _flip(path: Path, _another: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path, _another: bytes) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


DAMAGES: dict[str, Callable[[Path, bytes], object]] = {
    "flipped": _flip,
    "truncated": _truncate,
    "deleted": lambda path, _another: path.unlink(),
    "replaced": lambda path, another: path.write_bytes(another),
}


def _settings(folder: Path, name: str, photos: range, seed: int) -> dict[str, Any]:
    place = folder / name
    for i in photos:
        path = place / ("disc", "plain")[i % 2] / f"photo-{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(i).save(path)
    settings = small_run(folder, place)
    settings["data"]["name"] = name
    settings["teacher"]["weights"] = str(write_teacher(folder / f"{name}.safetensors", seed))
    settings["training"]["epochs"] = 1
    settings["mapping"]["steps"] = 3
    settings["runtime"]["checkpoint_seconds"] = 0
    settings["nightly"] = {"gates": []}
    return settings


def make_finished(folder: Path) -> Finished:
    """Make the runs."""
    for number, name in enumerate(("shapes", "others")):
        settings = _settings(folder, name, range(100 * number, 100 * number + 32), seed=number)
        write_config(folder, settings, f"{name}.yaml")
        for seed in (1, 2) if name == "shapes" else ():
            unfinished = {**settings, "training": {**settings["training"], "seed": seed}}
            write_config(folder, unfinished, f"unfinished-{seed}.yaml")
    configs = [load_config(folder / f"{name}.yaml") for name in ("shapes", "others")]
    for config in configs:
        assert RetrainingRun(config).run().outcome == "promoted"
    first, second = map(Pipeline, configs)
    root = first.root
    other = current_version(root, "test-resnet-others")
    assert other is not None
    promote(root, LINE, other.model, "to have two versions", over=1)
    for number, run in enumerate((first, second)):
        entry = Entry("one", "one", run.trained.id)
        write_sweep(root, f"sweep-{number}", [entry], 1, {"leaderboard.parquet": b"%d" % number})
    for seed in (1, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "save_checkpoint", _stopping_after(seed))
            with pytest.raises(StoppedError):
                _ = Pipeline(load_config(folder / f"unfinished-{seed}.yaml")).trained
    return Finished(folder)


def _stopping_after(saves: int) -> Callable[..., None]:
    save, left = train.save_checkpoint, [saves]

    def save_and_stop(*arguments: Any) -> None:
        save(*arguments)
        left[0] -= 1
        if not left[0]:
            raise StoppedError

    return save_and_stop
