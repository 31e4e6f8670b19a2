"""What earlier nights decided on the same lines: it is not decided again because of a few photos.

A student that was rolled back, or did not pass its gates, has a near twin on every night with one
more photo. So photos that led to such a student count as known, like those of the latest.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from flows.data.dataset import Dataset
from flows.retraining.changes import Changes, ModelLine, photos_of
from flows.retraining.decision import counted
from flows.retraining.record import KIND
from storage.artifacts import read_record, read_records
from storage.registry import rejected
from storage.root import Root


@dataclass(frozen=True)
class DecisionHistory:
    """The nights before tonight, and what was rolled back."""

    root: Root
    night: str
    """Tonight's id."""
    spec: dict[str, Any]
    """What tonight's decisions follow from; see :func:`flows.retraining.record.retraining_spec`."""

    def decided(self, line: ModelLine, news: Changes) -> tuple[Changes, list[str]]:
        """Count photos that led to a student which is not to be in force as known; say which.

        Raises:
            CorruptRecordError, MissingObjectError: if a night, or a list of photos, is damaged.
        """
        said = []
        for photos, why in self._turned_down(line):
            more = replace(news, decided=(*news.decided, photos))
            count = len(news.new.keys()) - len(more.new.keys())
            if count:
                found = counted(count, "new photo")
                said.append(f"the line has decided on {found} before: {why}")
                news = more
        return news, said

    def has_promoted(self, line: ModelLine) -> bool:
        """Whether a night like this one promoted the line, and failed for a student still missing.

        Tried again, such a night is for that other student alone: forced, it would train this one
        further with every attempt.
        """
        if line.latest is None or line.latest.model.night is None:
            return False
        record = read_record(self.root, KIND, line.latest.model.night)
        if record is None or record["outcome"] != "failed":
            return False
        then, now = record["spec"], self.spec
        is_alike = all(then[name] == now[name] for name in ("force", "photos"))
        if not is_alike or _asked(then, line.id) != _asked(now, line.id):
            return False
        return any(
            decided["outcome"] == "failed"
            and other in now["lines"]
            and now["lines"][other]["over"] == then["lines"][other]["over"]
            for other, decided in record["lines"].items()
        )

    def _turned_down(self, line: ModelLine) -> Iterator[tuple[Dataset, str]]:
        for student in rejected(line.entries):
            made = next(e.model for e in reversed(line.entries) if e.model.student == student)
            whose = f"{student}, which was rolled back, learned from"
            yield (
                photos_of(self.root, made.reference["manifest"], whose),
                str(line.turned_away(student)),
            )
        # Another latest, settings or gates: what was kept then may pass now.
        asked = self.spec["lines"][line.id]
        for record in self._newest_first:
            is_same = record["spec"]["lines"].get(line.id) == asked
            if is_same and record["lines"][line.id]["outcome"] == "kept":
                whose = f"night {record['id']} decided on"
                photos = photos_of(self.root, record["data"]["manifest"], whose)
                yield photos, f"night {record['id']} kept what is in force"
                return

    @cached_property
    def _newest_first(self) -> list[dict[str, Any]]:
        """The records of all nights but this one, of which an earlier attempt may have failed.

        Raises:
            CorruptRecordError: if one is damaged: what it decided would be decided again.
        """
        records = read_records(self.root, KIND)
        return [record for record in reversed(records) if record["id"] != self.night]


def _asked(spec: dict[str, Any], line: str) -> dict[str, Any]:
    """Return what a night was asked of a line, whatever was in force then."""
    return {name: value for name, value in spec["lines"][line].items() if name != "over"}
