"""Which image is in which row: append-only generations, written before any work starts.

A generation is a Parquet table (key, row) under ``rows/`` and a sealed JSON record that makes it
count. Both have a copy under ``rows/copies/``: without the table the shards would be worthless.

``append``  gives new images rows in fresh shards
``reserve`` takes shard numbers for a compaction; its rows do not count
``switch``  replaces every earlier generation by the table it holds
"""

import io
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import polars as pl

from storage.errors import CorruptError, CorruptRecordError
from storage.keys import keys_digest
from storage.records import FileFact, seal, unseal
from storage.root import Root

Purpose = Literal["append", "reserve", "switch"]
FOLDER = "rows"
COPIES = f"{FOLDER}/copies"
# Generations read at once: few enough for memory, many enough for an object store.
_AT_ONCE = 32
# Whatever else lies there (.DS_Store, .nfs0001) is not ours.
_OURS = re.compile(r"(?:copies/)?(([0-9]{6,})(?:\.json|-[0-9a-f]+\.parquet))")


@dataclass(frozen=True)
class Allocation:
    """One shard number, how many rows it holds and which images they are (a digest)."""

    shard: int
    rows: int
    keys: str


@dataclass
class RowTable:
    """The rows of a cache as its generations say."""

    assigned: pl.DataFrame
    shards: dict[int, Allocation]
    next_shard: int = 0
    next_generation: int = 0
    generations: int = 0
    damaged: dict[str, str] = field(default_factory=dict)


def empty_table() -> pl.DataFrame:
    """No rows at all."""
    return pl.DataFrame(schema={"key": pl.String, "row": pl.Int64})


def allocate(keys: pl.Series, first_shard: int, rows_per_shard: int) -> list[Allocation]:
    """Shards for keys in their order, each full but the last."""
    found = []
    for start in range(0, len(keys), rows_per_shard):
        part = keys.slice(start, rows_per_shard)
        shard = first_shard + start // rows_per_shard
        found.append(Allocation(shard, len(part), keys_digest(part)))
    return found


def table_of(keys: pl.Series, first_shard: int, rows_per_shard: int) -> pl.DataFrame:
    """(key, row) for keys placed one after another from the start of a shard."""
    first = first_shard * rows_per_shard
    rows = pl.int_range(first, first + len(keys), dtype=pl.Int64, eager=True)
    return pl.DataFrame({"key": keys, "row": rows})


def publish(
    root: Root,
    base: str,
    number: int,
    purpose: Purpose,
    table: pl.DataFrame,
    shards: Iterable[Allocation],
) -> bool:
    """Make a generation count, whole or not at all; False if its number was taken meanwhile."""
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd", compression_level=1)
    data = buffer.getvalue()
    # Two planners of the same images make the same table: the loser deletes its own file only.
    name = f"{number:06d}-{secrets.token_hex(6)}.parquet"
    record = seal(
        {
            "generation": number,
            "purpose": purpose,
            "table": {"file": name, **asdict(FileFact.of(data)), "rows": table.height},
            "shards": [asdict(shard) for shard in shards],
        }
    )
    root.write(f"{base}/{COPIES}/{name}", data)
    root.write(f"{base}/{FOLDER}/{name}", data)
    if not root.create(f"{base}/{FOLDER}/{number:06d}.json", record):
        root.delete(f"{base}/{COPIES}/{name}")
        root.delete(f"{base}/{FOLDER}/{name}")
        return False
    root.write(f"{base}/{COPIES}/{number:06d}.json", record)
    return True


def load(root: Root, base: str, tolerant: bool = False) -> RowTable:
    """The rows of a cache.

    Args:
        tolerant: leave out generations that are damaged beyond their copy, and name every
            damaged file in ``damaged``, instead of raising.

    Raises:
        CorruptRecordError: if a generation and its copy are both damaged.
    """
    damaged: dict[str, str] = {}
    numbers = _numbers(root, base)
    try:
        generations = _read_generations(root, base, numbers, tolerant, damaged)
    except CorruptRecordError:
        if _numbers(root, base) == numbers:
            raise
        # A compaction has put one generation in the place of these meanwhile.
        return load(root, base)
    records = [record for record, _ in generations]
    live = _live(records)
    tables = [table for record, table in generations[len(records) - len(live) :]]
    taken = [a["shard"] for record in records for a in record["shards"]]
    return RowTable(
        assigned=pl.concat(tables) if tables else empty_table(),
        shards=_shards(live),
        next_shard=max(taken, default=-1) + 1,
        next_generation=max(numbers, default=-1) + 1,
        generations=len(numbers),
        damaged=damaged,
    )


def allocated(root: Root, base: str) -> dict[int, Allocation]:
    """The shards of a cache by number; no table is read for it.

    Raises:
        CorruptRecordError: if a generation's record and its copy are both damaged.
    """
    records = _read_records(root, base, _numbers(root, base), False, {})
    return _shards(_live(records))


def _live(records: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """What counts: the last switch, and everything after it."""
    switches = [i for i, record in enumerate(records) if record["purpose"] == "switch"]
    return records[switches[-1] :] if switches else records


def _shards(records: Iterable[dict[str, Any]]) -> dict[int, Allocation]:
    return {
        a["shard"]: Allocation(**a)
        for record in records
        if record["purpose"] != "reserve"
        for a in record["shards"]
    }


def complete_copies(root: Root, base: str) -> None:
    """Copy each record that has no copy: it is written last, and made again by nobody."""
    paths = {path for path, _, _ in _files(root, base)}
    for record in sorted(paths):
        copy = f"{base}/{COPIES}/{record.rsplit('/', 1)[-1]}"
        if not record.endswith(".json") or copy in paths:
            continue
        if (data := root.read_or_none(record)) is not None:
            root.write(copy, data)
        if not root.exists(record):
            # A compaction has put one generation in the place of this one meanwhile.
            root.delete(copy)


def forget_before(root: Root, base: str, generation: int) -> None:
    """Delete every generation older than a switch."""
    for path, _, number in _files(root, base):
        if number < generation:
            root.delete(path)


def unnamed(root: Root, base: str) -> list[str]:
    """Tables that no record names, as a killed planner leaves them: of no use, and no harm."""
    # Listed first: a record that comes meanwhile names its table.
    tables = {path: name for path, name, _ in _files(root, base) if not name.endswith(".json")}
    records = _read_records(root, base, _numbers(root, base), True, {})
    named = {record["table"]["file"] for record in records}
    return [path for path, name in tables.items() if name not in named]


def _files(root: Root, base: str) -> Iterator[tuple[str, str, int]]:
    """Path, name and generation of every record, every table and every copy."""
    for path in root.list(f"{base}/{FOLDER}"):
        if ours := _OURS.fullmatch(path.removeprefix(f"{base}/{FOLDER}/")):
            yield path, ours[1], int(ours[2])


def _numbers(root: Root, base: str) -> list[int]:
    return sorted({number for _, name, number in _files(root, base) if name.endswith(".json")})


def _read_generations(
    root: Root, base: str, numbers: Sequence[int], tolerant: bool, damaged: dict[str, str]
) -> list[tuple[dict[str, Any], pl.DataFrame]]:
    """Records and tables, many at once: on an object store each waits for an answer."""
    found = []
    for start in range(0, len(numbers), _AT_ONCE):
        part = numbers[start : start + _AT_ONCE]
        records = _read_records(root, base, part, tolerant, damaged)
        wanted = {record["table"]["file"]: record["table"] for record in records}
        tables = _read_pairs(root, base, wanted, _parse_table, tolerant, damaged)
        for record in records:
            if (table := tables.get(record["table"]["file"])) is not None:
                found.append((record, table))
    return found


def _read_records(
    root: Root, base: str, numbers: Sequence[int], tolerant: bool, damaged: dict[str, str]
) -> list[dict[str, Any]]:
    names = {f"{number:06d}.json": None for number in numbers}
    tables = {name for _, name, _ in _files(root, base) if not name.endswith(".json")}

    def parse(data: bytes, where: str, _: None) -> dict[str, Any]:
        record = unseal(data, where)
        is_own = where.endswith(f"/{record.get('generation', -1):06d}.json")
        if not is_own or record["table"]["file"] not in tables:
            raise CorruptRecordError(f"{where} is about a table that is not here.")
        return record

    records = _read_pairs(root, base, names, parse, tolerant, damaged)
    return [records[name] for name in names if name in records]


def _parse_table(data: bytes, where: str, wanted: dict[str, Any]) -> pl.DataFrame:
    if not FileFact(wanted["bytes"], wanted["crc32"]).matches(data):
        raise CorruptRecordError(f"{where} is damaged: its checksum differs.")
    return pl.read_parquet(io.BytesIO(data))


def _read_pairs(
    root: Root,
    base: str,
    names: Mapping[str, Any],
    parse: Callable[[bytes, str, Any], Any],
    tolerant: bool,
    damaged: dict[str, str],
) -> dict[str, Any]:
    """Objects by name, each from its place or, where it is damaged there, from its copy.

    Args:
        names: and what ``parse`` is told about each.
        tolerant: look at both, leave out what is damaged in both, and name all damage.
    """
    found: dict[str, Any] = {}
    for folder in (FOLDER, COPIES):
        todo = [name for name in names if tolerant or name not in found]
        paths = [f"{base}/{folder}/{name}" for name in todo]
        for name, path, data in zip(todo, paths, root.read_many(paths), strict=True):
            try:
                if data is None:
                    raise CorruptRecordError(f"{root.url}/{path} is missing.")
                parsed = parse(data, f"{root.url}/{path}", names[name])
            except CorruptError as error:
                damaged[path] = str(error)
            else:
                found.setdefault(name, parsed)
    for name in names:
        if name not in found and not tolerant:
            raise CorruptRecordError(f"{damaged[f'{base}/{COPIES}/{name}']} Run `tintem repair`.")
    return found


def restore(root: Root, base: str) -> None:
    """Write each damaged file of a generation again from its copy, and the other way round.

    A generation that is damaged beyond its copy is removed; its shards are then nobody's. So are
    tables that no record names.
    """
    named: set[str] = set()
    for number in _numbers(root, base):
        damaged: dict[str, str] = {}
        kept = _read_generations(root, base, [number], True, damaged)
        for path in damaged if kept else ():
            name = path.rsplit("/", 1)[-1]
            folder = FOLDER if f"/{COPIES}/" in path else COPIES
            root.write(path, root.read(f"{base}/{folder}/{name}"))
        for record, _ in kept:
            named |= {f"{number:06d}.json", record["table"]["file"]}
    for path, name, _ in _files(root, base):
        if name not in named:
            root.delete(path)
