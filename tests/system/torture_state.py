"""What a command leaves, as far as it is the same whenever it is run: no dates, no durations."""

import contextlib
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import polars as pl

State = dict[str, str]
# Moments, durations, random tokens, and digests of records that hold one of these.
_VOLATILE = re.compile(
    r"created|since|(.*_)?seconds|resumed_at_step|token|check|latency_ms|speed_ms"
)
# A table of rows is called after its generation and a token.
_TOKEN = re.compile(r"(\d{6})-[0-9a-f]{12}(?=\.parquet)")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Pages say when they were made, and how long a photo took.
_PAGES = (".html", ".md")


def state_of(folder: Path) -> State:
    """Return what lies below a folder: by path a text that is the same for the same content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            place = _TOKEN.sub(r"\1-token", str(path.relative_to(folder)))
            found[place] = _told(path)
    return found


def changes(folder: Path) -> dict[str, int]:
    """Return when each thing below a folder was changed, in nanoseconds."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found[str(path)] = path.stat().st_mtime_ns
    return found


def differences(wanted: State, found: State) -> list[str]:
    """Say what is missing, what is there too much, and what differs."""
    said = [f"missing: {path}" for path in wanted.keys() - found.keys()]
    said += [f"too much: {path}" for path in found.keys() - wanted.keys()]
    for path in wanted.keys() & found.keys():
        if wanted[path] != found[path]:
            said.append(f"differs: {path}{_first_difference(wanted[path], found[path])}")
    return sorted(said)


def _told(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".json":
        return json.dumps(_lasting(json.loads(data)), indent=1, sort_keys=True)
    if path.suffix in _PAGES:
        return re.sub(r"\d+(\.\d+)?", "0", _UUID.sub("", data.decode()))
    if path.name == "leaderboard.parquet":
        table = pl.read_parquet(io.BytesIO(data))
        return table.drop("latency_ms").write_json()
    return hashlib.sha256(data).hexdigest()


def _lasting(content: Any) -> Any:
    if isinstance(content, dict):
        return {
            key: _lasting(value)
            for key, value in content.items()
            if not _VOLATILE.fullmatch(key) and not key.endswith((*_PAGES, "leaderboard.parquet"))
        }
    if isinstance(content, list):
        return [_lasting(value) for value in content]
    return _TOKEN.sub(r"\1-token", content) if isinstance(content, str) else content


def _first_difference(wanted: str, found: str) -> str:
    pairs = zip(wanted.splitlines(), found.splitlines(), strict=False)
    first = next(((was, now) for was, now in pairs if was != now), None)
    return "" if first is None else f": {first[0][:200]!r} became {first[1][:200]!r}"
