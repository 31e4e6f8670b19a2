"""Which image is in which row: append-only generations, written before any work starts.

A generation is a Parquet table (key, row) under ``rows/`` and a sealed JSON record that makes it
count. Both have a copy under ``rows/copies/``: without the table the shards would be worthless.

``append``  gives new images rows in fresh shards
``reserve`` takes shard numbers for a compaction; its rows do not count
``switch``  replaces every earlier generation by the table it holds
"""

import io
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import polars as pl

from storage._records import checksum, keys_digest, seal, unseal
from storage.errors import CorruptError, CorruptRecordError
from storage.root import Root

Purpose = Literal["append", "reserve", "switch"]
FOLDER = "rows"
COPIES = f"{FOLDER}/copies"


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
    reserved: frozenset[int] = frozenset()
    damaged: dict[str, str] = field(default_factory=dict)

    @property
    def current(self) -> pl.DataFrame:
        """(key, row) with one row per key: where two generations name a key, the later one."""
        if self.assigned["key"].hash().n_unique() == self.assigned.height:
            return self.assigned
        return self.assigned.unique("key", keep="last", maintain_order=True)


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
            "table": {
                "file": name,
                "bytes": len(data),
                "crc32": checksum(data),
                "rows": table.height,
            },
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
    generations = [
        found
        for number in _numbers(root, base)
        if (found := _read_generation(root, base, number, tolerant, damaged)) is not None
    ]
    switches = [i for i, (record, _) in enumerate(generations) if record["purpose"] == "switch"]
    last = _last_number(root, base)
    taken = [a["shard"] for record, _ in generations for a in record["shards"]]
    live = generations[switches[-1] :] if switches else generations
    tables = [table for record, table in live if record["purpose"] != "reserve"]
    shards = {
        a["shard"]: Allocation(**a)
        for record, _ in live
        if record["purpose"] != "reserve"
        for a in record["shards"]
    }
    reserved = frozenset(
        a["shard"] for record, _ in live if record["purpose"] == "reserve" for a in record["shards"]
    )
    return RowTable(
        assigned=pl.concat(tables) if tables else empty_table(),
        shards=shards,
        next_shard=max(taken, default=-1) + 1,
        next_generation=last + 1,
        reserved=reserved - shards.keys(),
        damaged=damaged,
    )


def forget_before(root: Root, base: str, generation: int) -> None:
    """Delete every generation older than a switch."""
    for folder in (FOLDER, COPIES):
        for path in root.list(f"{base}/{folder}"):
            name = path.rsplit("/", 1)[-1]
            if path == f"{base}/{folder}/{name}" and int(name[:6]) < generation:
                root.delete(path)


def _numbers(root: Root, base: str) -> list[int]:
    names = {path.rsplit("/", 1)[-1] for path in root.list(f"{base}/{FOLDER}")}
    return sorted(int(name[:6]) for name in names if name.endswith(".json"))


def _last_number(root: Root, base: str) -> int:
    return max(_numbers(root, base), default=-1)


def _read_generation(
    root: Root, base: str, number: int, tolerant: bool, damaged: dict[str, str]
) -> tuple[dict[str, Any], pl.DataFrame] | None:
    def first_good(name: str, parse: Any) -> Any:
        problem: CorruptError | None = None
        result = None
        for folder in (FOLDER, COPIES):
            path = f"{base}/{folder}/{name}"
            data = root.read_or_none(path)
            try:
                if data is None:
                    raise CorruptRecordError(f"{root.url}/{path} is missing.")
                parsed = parse(data, f"{root.url}/{path}")
            except CorruptError as error:
                problem = error
                damaged[path] = str(error)
            else:
                result = parsed if result is None else result
                if not tolerant:
                    return result
        if result is None and problem is not None and not tolerant:
            raise CorruptRecordError(f"{problem} Run `tintem repair`.") from problem
        return result

    record = first_good(f"{number:06d}.json", unseal)
    if record is None:
        return None
    wanted = record["table"]

    def parse_table(data: bytes, where: str) -> pl.DataFrame:
        if len(data) != wanted["bytes"] or checksum(data) != wanted["crc32"]:
            raise CorruptRecordError(f"{where} is damaged: its checksum differs.")
        return pl.read_parquet(io.BytesIO(data))

    table = first_good(wanted["file"], parse_table)
    return None if table is None else (record, table)


def restore(root: Root, base: str) -> None:
    """Write each damaged file of a generation again from its copy, and the other way round.

    A generation that is damaged beyond its copy is removed; its shards are then nobody's. So are
    tables that no record names.
    """
    named: set[str] = set()
    for number in _numbers(root, base):
        damaged: dict[str, str] = {}
        kept = _read_generation(root, base, number, True, damaged)
        for path in damaged:
            name = path.rsplit("/", 1)[-1]
            folder = FOLDER if f"/{COPIES}/" in path else COPIES
            if kept is not None:
                root.write(path, root.read(f"{base}/{folder}/{name}"))
        if kept is not None:
            named |= {f"{number:06d}.json", kept[0]["table"]["file"]}
    for path in root.list(f"{base}/{FOLDER}"):
        if path.rsplit("/", 1)[-1] not in named:
            root.delete(path)
