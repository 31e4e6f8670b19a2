"""The commands that are tortured: what they begin with, what they are called, what is compared."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.inference.embed import parts_folder
from flows.maintenance import leftovers
from flows.maintenance.gc import collect_garbage
from storage.embeddings import are_begun
from tests.exports import write_export
from tests.photos import write_photos
from tests.runs import small_run, write_config

_PHOTOS, _NEW = 48, 24
# Three parts of 1,024 each, of which the last is not full.
_TO_EMBED = 2_500
_OUT = "all.parquet"
Run = Callable[[Sequence[str]], None]


class Place:
    """A folder with photos that never change, a config, and roots to begin with.

    Args:
        folder: where all of it lies.
        run: runs `tintem` with some words in that folder.
    """

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder, self._run = folder, run
        self.root = folder / "root"

    def begin(self, state: str | None) -> None:
        """Make the root as it is in a state; None: there is none."""
        self._prepare()
        shutil.rmtree(self.root, ignore_errors=True)
        if state is not None:
            kept = self.folder / f"root-{state}"
            if not kept.exists():
                self._make(state)
                self.root.rename(kept)
            shutil.copytree(kept, self.root)

    def _make(self, state: str) -> None:
        if state == "run":
            self._run(["run", "run.yaml"])
        else:
            self.begin("run")
            shutil.rmtree(self.root / state.removeprefix("without-"))

    def _prepare(self) -> None:
        if (self.folder / "run.yaml").exists():
            return
        photos = self.folder / "photos"
        write_photos(photos, range(_PHOTOS))
        settings = small_run(self.folder, photos)
        settings["training"]["epochs"] = 12
        settings["runtime"]["checkpoint_seconds"] = 0
        settings["nightly"] = {"gates": [], "growth": 0.1}
        settings["sweep"] = {"grid": {"training.epochs": [8, 10]}}
        write_config(self.folder, settings)
        # Before the photos grow: a file that is written again counts as changed.
        self._run(["nightly", "run.yaml"])
        self.root.rename(self.folder / "root-night")
        write_photos(photos, range(_PHOTOS, _PHOTOS + _NEW))

    def begin_embedding(self) -> None:
        """Make many photos and a model, and remove what was made of them."""
        if not (self.folder / "many").exists():
            write_photos(self.folder / "many", range(_TO_EMBED))
            write_export(self.folder / "models")
        shutil.rmtree(self.folder / "embedded", ignore_errors=True)
        (self.folder / "embedded").mkdir()


@dataclass(frozen=True)
class Subject:
    """A command that may be killed at any moment."""

    share: float
    """Of all kills."""
    words: tuple[str, ...]
    begin: Callable[[Place], None]
    results: str = "root"
    """The folder that is watched and compared."""

    def tidy(self, place: Place) -> None:
        """Remove what kills leave: what is compared then is everything."""
        if self.results == "root":
            leftovers._UNNAMED_SECONDS = 0.0
            collect_garbage([str(place.root)], remove=True)

    def is_done(self, place: Place) -> bool:
        """Whether a killed command had done everything, and refuses to do it again."""
        out = place.folder / "embedded" / _OUT
        return self.results == "embedded" and out.exists() and not are_begun(parts_folder(out))

    def moment(self, place: Place, pid: int) -> str:
        """Name what a process works on, by the leases that it holds."""
        found = set()
        for path in (place.folder / self.results).rglob("leases/**/*.json"):
            claim = json.loads(path.read_text() or "{}") if path.exists() else {}
            if claim.get("pid") == pid:
                found.add(str(path).split("leases/")[1].split("/")[0].split(".")[0])
        return "+".join(sorted(found)) or "between"


SUBJECTS = {
    "run": Subject(0.22, ("run", "run.yaml"), lambda place: place.begin(None)),
    "nightly": Subject(0.16, ("nightly", "run.yaml"), lambda place: place.begin("night")),
    "sweep": Subject(0.1, ("sweep", "run.yaml"), lambda place: place.begin("run")),
    "export": Subject(0.1, ("export", "run.yaml"), lambda place: place.begin("without-exports")),
    "embed": Subject(
        0.25,
        ("embed", "models/exports/small", "many", "--output", f"embedded/{_OUT}"),
        lambda place: place.begin_embedding(),
        "embedded",
    ),
}
