"""The shard files of one array, opened and checked at first touch, gathered in one go.

Legend: S shards in use, V views, K inner chunks per shard, C rows per chunk, B batch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from storage import _zarr
from storage._commits import Commit
from storage._records import crc32c
from storage._region import Region
from storage._zarr import ArraySpec
from storage.errors import CorruptShardError, MissingObjectError
from storage.root import Root
from storage.spec import Layout

Array = np.ndarray[Any, Any]


class ShardSet:
    """Random rows of one array, over some of its shards."""

    def __init__(
        self,
        root: Root,
        base: str,
        array: ArraySpec,
        layout: Layout,
        views: int,
        commits: Sequence[Commit],
        *,
        in_memory: bool,
    ) -> None:
        self._root = root
        self._base = base
        self._array = array
        self._layout = layout
        self._views = views
        self._commits = list(commits)
        self._in_memory = in_memory
        self._checked = np.zeros(len(self._commits), bool)
        self._open()

    def _open(self) -> None:
        self._chunks = self._layout.rows_per_shard // self._layout.rows_per_chunk
        self._itemsize = np.dtype(self._array.dtype).itemsize
        self._items = int(np.prod(self._array.shape, dtype=np.int64))
        self._ready = np.zeros(len(self._commits), bool)
        self._all_ready = False
        self._table = np.full((len(self._commits), self._views, self._chunks), -1, np.int64)
        sizes = np.array([self._fact(s).bytes for s in range(len(self._commits))], np.int64)
        self._region = Region(sizes, loaded=self._in_memory)
        row_bytes = self._items * self._itemsize
        places = self._region.bytes.size - row_bytes
        # A row can start at any item, because each inner chunk ends with a checksum. So there is
        # one window per item, each an opaque element as long as a row: indexing them copies whole
        # rows in NumPy's fastest path.
        self._windows = np.lib.stride_tricks.as_strided(
            self._region.bytes[:row_bytes].view(f"V{row_bytes}"),
            (places // self._itemsize + 1,),
            (self._itemsize,),
            writeable=False,
        )

    def cells(self, slots_N: Array, locals_N: Array) -> tuple[Array, Array]:
        """Where rows lie, once for all minibatches: a cell for view 0, and a row in its chunk.

        Args:
            slots_N: places in ``commits``.
            locals_N: rows within the shard.
        """
        chunks_N, within_N = np.divmod(locals_N, self._layout.rows_per_chunk)
        cells_N = slots_N * (self._views * self._chunks) + chunks_N
        return cells_N.astype(np.int64), within_N.astype(np.int32)

    def take(self, cells_B: Array, within_B: Array, views_B: Array) -> Array:
        """Rows by what `cells` returned, and view: (B, items)."""
        if not self._all_ready:
            self._touch(cells_B // (self._views * self._chunks))
        starts_B = within_B * np.int64(self._items)
        starts_B += self._table.reshape(-1)[cells_B + views_B * self._chunks]
        rows_B: Array = self._windows[starts_B].view(self._array.dtype)
        return rows_B.reshape(len(starts_B), self._items)

    def load_all(self) -> None:
        """Touch every shard now."""
        self._touch(np.arange(len(self._commits)))

    def _touch(self, slots_B: Array) -> None:
        for slot in np.unique(slots_B[~self._ready[slots_B]]):
            self._load(int(slot))
        self._all_ready = bool(self._ready.all())

    def _load(self, slot: int) -> None:
        commit, fact = self._commits[slot], self._fact(slot)
        where = f"Shard {commit.shard} of {self._root.url}/{self._base} ({self._path(slot)})"
        local = self._root.path(f"{self._base}/{self._path(slot)}")
        try:
            if local is None or self._in_memory or not self._region.can_map:
                data = self._root.read(f"{self._base}/{self._path(slot)}")
                _refuse_size(len(data), fact.bytes, where)
                self._region.load(slot, data)
            else:
                _refuse_size(local.stat().st_size, fact.bytes, where)
                self._region.map_file(slot, local, fact.bytes)
        except (MissingObjectError, FileNotFoundError) as error:
            raise CorruptShardError(f"{where} is missing. Run `tintem repair`.") from error
        held = self._region.view(slot, fact.bytes)
        if not self._checked[slot] and crc32c(held) != fact.crc32c:
            raise CorruptShardError(f"{where}: the checksum differs. Run `tintem repair`.")
        table_VK = _zarr.chunk_table(
            self._array, self._layout, self._views, commit.rows, held, where
        )
        start = int(self._region.starts[slot])
        self._table[slot] = np.where(table_VK < 0, -1, (start + table_VK) // self._itemsize)
        self._checked[slot] = self._ready[slot] = True

    def _path(self, slot: int) -> str:
        return self._array.shard_path(self._commits[slot].shard)

    def _fact(self, slot: int) -> Any:
        return self._commits[slot].files[self._path(slot)]

    def __getstate__(self) -> dict[str, Any]:
        """What a worker needs to open the same files itself; no embeddings travel."""
        left = ("_region", "_windows", "_table", "_ready", "_all_ready")
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def _refuse_size(found: int, wanted: int, where: str) -> None:
    if found != wanted:
        raise CorruptShardError(
            f"{where} has {found} bytes instead of {wanted}. Run `tintem repair`."
        )
