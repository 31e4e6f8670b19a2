"""Which student answers: one export, or whichever is in force."""

import threading
from collections.abc import Callable
from pathlib import Path

from flows.config.load import load_config
from flows.config.variants import retrained_students
from flows.inference.model import PhotoModel, open_export, open_stored_export
from storage.registry import current_version
from storage.root import Root, open_root
from storage.versions import FOLDER
from tintem_core.errors import InputError


class Current:
    """The student that answers now."""

    def __init__(
        self, place: str, student: str | None = None, *, say: Callable[[str], None] = print
    ) -> None:
        """Open a student.

        Args:
            place: an export's folder or an ONNX file inside, which stays; or a run's config, or
                ``ROOT/latest/NAME.json``, whose student in force answers.
            student: its name, where the config's nights have several.
            say: is told when another student answers, or why it does not.

        Raises:
            InputError: if there is none.
            StorageInputError: if it is no export, or its file is not the one that was published.
        """
        self._line, self._say = _line_of(place, student), say
        self._stop = threading.Event()
        self._number = 0
        self.model: PhotoModel
        if self._line is None:
            self.model = open_export(place)
            return
        self._look(*self._line)
        if not self._number:
            root, line = self._line
            raise InputError(
                f"{root.url} has no student in force as {line}: `tintem nightly` or `tintem "
                "promote` brings one."
            )

    @property
    def follows(self) -> str | None:
        """The name under which students come into force; None: the student stays."""
        return None if self._line is None else self._line[1]

    def watch(self, seconds: float) -> None:
        """Look every so many seconds, until :meth:`stop`, whether another came into force."""
        said = ""
        while self._line is not None and not self._stop.wait(seconds):
            try:
                self._look(*self._line)
            except Exception as error:  # noqa: BLE001 - the student that answers is whole
                why = f"the student in force cannot be read, {self.model.id} stays: {error}"
                if why != said:
                    self._say(why)
                said = why

    def stop(self) -> None:
        self._stop.set()

    def _look(self, root: Root, line: str) -> None:
        version = current_version(root, line)
        if version is None or version.number == self._number:
            return
        self.model = open_stored_export(root, version.model.export)
        if self._number:
            self._say(f"{self.model.id} answers from now on: entry {version.number} of {line}")
        self._number = version.number


def _line_of(place: str, student: str | None) -> tuple[Root, str] | None:
    """Return the root and the line that a place names; None: it is an export."""
    if place.endswith((".yaml", ".yml")):
        config = load_config(Path(place))
        lines = {found.name: found.line for found in retrained_students(config)}
        by_name = {**{line: line for line in lines.values()}, **lines}
        if student is None and len(lines) == 1:
            student = next(iter(lines))
        if student not in by_name:
            raise InputError(
                f"{place} has {', '.join(lines)}: say with --student which one answers."
            )
        return open_root(config.root), by_name[student]
    if student is not None:
        raise InputError("--student chooses among the students of a config: give a CONFIG.yaml.")
    folder, _, file = place.rpartition("/")
    root, _, name = folder.rpartition("/")
    if name != FOLDER or not file.endswith(".json"):
        return None
    return open_root(root), file.removesuffix(".json")
