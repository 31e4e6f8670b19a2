"""Every kind of file in a root: damaged in any way it is named, and nothing wrong is used."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from flows.cli import main
from flows.config.run import RunConfig
from flows.experiments.leaderboard import leaderboard
from flows.inference.model import open_export
from flows.maintenance.status import collect
from flows.maintenance.verify import repair
from flows.stages.pipeline import Pipeline
from storage.errors import StorageError
from storage.root import open_root
from tests.flows.maintenance.finished import DAMAGES, KINDS, Finished, make_finished
from tintem_core.errors import TintemError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# Nothing is recorded about these: a view of an export, which may be made again at any time, and
# what only tells a reader how far a training is.
UNRECORDED = {"report", "progress of a training"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return make_finished(tmp_path_factory.mktemp("finished"))


def cases(finished: Finished, kind: str, root: Path) -> Iterator[tuple[str, str]]:
    """Damage a fresh copy of the root in every way; say which file, and how."""
    for path in finished.files_of(kind):
        for way, damage in DAMAGES.items():
            finished.copy(root)
            damage(root / path, finished.another(kind, path))
            yield path, way


def test_every_file_of_a_root_is_of_a_kind_below(finished: Finished) -> None:
    known = set().union(*(finished.root.glob(pattern) for pattern in KINDS.values()))
    assert [path for path in finished.files if path not in known] == []
    assert all(finished.files_of(kind) for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_and_nothing_damaged_is_listed_as_whole(
    finished: Finished,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "root"
    whole, board = listed(finished.root), ranked(finished.root)
    for path, way in cases(finished, kind, root):
        where = f"{path} {way}"
        monkeypatch.setattr(sys, "argv", ["tintem", "verify", str(root)])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        # Checkpoints come and go while a student trains.
        if kind not in UNRECORDED and (kind, way) != ("checkpoint", "deleted"):
            assert is_named(path, way, said.out + said.err), (where, said)
            assert bool(left.value.code) == (not is_to_come(path, way)), where
        now = listed(root)
        assert now.items() <= whole.items(), where
        if is_seen_at_a_glance(path, kind, way):
            assert "/".join(path.split("/")[:2]) not in now, where
        assert ranked(root).items() <= board.items(), where


def is_named(path: str, way: str, said: str) -> bool:
    """Whether `tintem verify` names a file; a shard that is gone counts as still to come."""
    thing, name = "/".join(path.split("/")[:2]), path.rsplit("/", 1)[-1]
    if is_to_come(path, way):
        return "shards to come" in said
    # Metadata of another cache show in the files that they describe.
    if name == "metadata.json" and way == "replaced":
        return f"metadata of {path.split('/')[1]} is damaged" in said
    return path in said or (thing in said and name in said)


def is_to_come(path: str, way: str) -> bool:
    """Whether a file is gone without which a shard was never finished."""
    return "/commits/" in path and way == "deleted"


def is_seen_at_a_glance(path: str, kind: str, way: str) -> bool:
    """Whether records and sizes tell: bytes of files are read by `tintem verify` alone."""
    if kind in UNRECORDED or path.startswith(("caches", "manifests", "latest")):
        return False
    return path.endswith("record.json") or way in ("truncated", "deleted")


def listed(root: Path) -> dict[str, Any]:
    """What `tintem status` lists as whole, and the numbers that it shows."""
    return {
        f"{kind}/{thing['id']}": thing["metrics"]
        for kind, things in collect(str(root)).items()
        for thing in things
        if thing["progress"] == 1
    }


def ranked(root: Path) -> dict[str, Any]:
    """What the leaderboard says of finished students, by student."""
    return {
        row["student"]: (row["value"], row["parameters"])
        for group in leaderboard(open_root(root)).groups
        for row in group.table.iter_rows(named=True)
        if row["status"] == "done"
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_stops_with_a_sentence_or_makes_the_right_bytes_again(
    finished: Finished, kind: str, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    name = "unfinished-1" if kind in TRAININGS else "shapes"
    config = finished.config(root, name)
    finished.copy(root)
    products = made_by(config)
    for path, way in cases(finished, kind, root):
        if kind in LIKE_OTHERS and way != "flipped":
            continue
        where = f"{path} {way}"
        try:
            made_by(config)
        except (StorageError, TintemError) as error:
            assert is_a_sentence(error), where
            repair(str(root))
            continue
        for product, data in products.items():
            # What was not needed is as damaged as before.
            assert product == path or is_equal(root / product, data), (where, product)


TRAININGS = ("checkpoint", "progress of a training")
# Files of an artifact that are treated as another one of it, which is damaged in every way.
LIKE_OTHERS = (
    "ONNX mapping", "model card", "test vectors", "verify.py", "measures of each class",
    "OOD scores",
)  # fmt: skip


def made_by(config: RunConfig) -> dict[str, bytes]:
    """What a run makes, or finds, below its root; where the student is still in training, that."""
    root, made = Path(config.root), Pipeline(config)
    stored = made.extracted
    paths = [
        root / f"mappings/{made.mapped.id}/mapping.safetensors",
        root / f"students/{made.trained.id}/student.safetensors",
    ]
    for cache in (stored.training_cache, *stored.evaluation_caches.values()):
        paths += (root / "caches" / cache).glob("global/c/0/*/0")
    if config.training.seed == 0:
        paths.append(root / f"exports/{made.exported.id}/student.onnx")
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def is_equal(path: Path, data: bytes) -> bool:
    """Whether a file is the same again; of a fit, to the last digit but one."""
    found = path.read_bytes()
    if path.name != "mapping.safetensors":
        return found == data
    return all(
        np.allclose(tensor, again, rtol=0, atol=1e-5)
        for tensor, again in zip(load(data).values(), load(found).values(), strict=True)
    )


def is_a_sentence(error: Exception) -> bool:
    text = str(error)
    return "\n" not in text and text.endswith((".", ")")) and len(text) < 400


@pytest.mark.parametrize("way", DAMAGES)
@pytest.mark.parametrize("kind", ["record of an export", "ONNX student"])
def test_a_damaged_export_embeds_no_photos(
    finished: Finished, kind: str, way: str, tmp_path: Path
) -> None:
    root = finished.copy(tmp_path / "root")
    (path,) = finished.files_of(kind)
    DAMAGES[way](root / path, finished.another(kind, path))
    with pytest.raises(StorageError, match=r"is no export|is damaged|not the file"):
        open_export(str((root / path).parent))
