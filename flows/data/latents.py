"""Embeddings that somebody has already, in a file: what stands in for a teacher.

Legend: ``N`` photos, ``B`` rows of the file, ``D`` width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.data.latents_file import TableFile, open_latents_file
from storage.identity import digest
from storage.images import Manifest
from storage.keys import as_series, rows_of
from tintem_core.errors import InputError
from tintem_core.models.config import TeacherConfig
from tintem_core.models.teacher import Teacher

Names = Sequence[str] | pl.Series
_ROWS_AT_ONCE = 8192
# One read is cheaper than several where what lies between is not more than this.
_GAP = 4096
_KEY = r"^[0-9a-f]{32}$"


@dataclass(frozen=True)
class StoredLatents:
    """A file of embeddings, seen as the teacher that gave them."""

    config: TeacherConfig
    file: TableFile
    names: pl.Series
    """The photo of each row: content keys or uris."""
    digest: str

    @property
    def width(self) -> int:
        """D."""
        return self.file.width

    def identity(self) -> dict[str, Any]:
        """Return everything that determines an embedding."""
        return {"latents": self.digest}

    def describe(self, *, tokens: bool = False) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
        """Return the shape of one photo's embedding; a config asks for no tokens of a file."""
        return {"global": (self.width,)}

    @cached_property
    def are_keys(self) -> bool:
        """Whether photos are named by their content, as the manifests do."""
        return bool(self.names.str.contains(_KEY).all())

    def places(self, keys: Names, uris: Names, source: str) -> pl.Series:
        """Return the row of each photo, null where it has none.

        By content key; or by uri, as it is written, then by the path below the source.

        Args:
            keys, uris: of the photos.
            source: uri of their data set.
        """
        if self.are_keys:
            return rows_of(as_series(keys), _first_rows(self.names))
        exact = rows_of(as_series(uris), _first_rows(self.names))
        below = _below(self.names, source)
        return exact.zip_with(
            exact.is_not_null(), rows_of(_below(as_series(uris), source), _first_rows(below))
        )

    def read(self, rows_B: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows: (B, D)."""
        found = np.empty((len(rows_B), self.width), np.float32)
        order = np.argsort(rows_B, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(rows_B[order]) > _GAP) + 1):
            if len(part):
                first, last = int(rows_B[part[0]]), int(rows_B[part[-1]])
                found[part] = self.file.rows(first, last + 1)[rows_B[part] - first]
        return found

    def refuse_unusable(self, rows_N: NDArray[np.int64]) -> None:
        """Look at every row that photos have.

        Raises:
            InputError: where some are of another width, not finite, all zeros, or contradict
                another row of the same photo; says how many, and names the first.
        """
        rows_N = np.unique(rows_N)
        parts = [
            rows_N[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows_N), _ROWS_AT_ONCE)
        ]
        widths = [self.file.other_widths(int(part[0]), int(part[-1]) + 1) for part in parts]
        first = [part[found[part - part[0]]] for part, found in zip(parts, widths, strict=True)]
        self._refuse(first, len(rows_N), f"are not {self.width} numbers wide, as the first is")
        endless: list[NDArray[np.int64]] = []
        zeros: list[NDArray[np.int64]] = []
        for part in parts:
            latents_BD = self.read(part)
            endless.append(part[~np.isfinite(latents_BD).all(axis=1)])
            zeros.append(part[~latents_BD.any(axis=1)])
        self._refuse(endless, len(rows_N), "hold NaN or infinity")
        self._refuse(zeros, len(rows_N), "are all zeros, which have no direction")
        self._refuse_contradictions(rows_N)

    def _refuse_contradictions(self, rows_N: NDArray[np.int64]) -> None:
        named = pl.DataFrame({"name": self.names}).with_row_index("row")
        named = named.with_columns(pl.col("row").cast(pl.Int64))
        wanted = named[rows_N]["name"]
        shared = named.filter(named["name"].is_duplicated() & named["name"].is_in(wanted.implode()))
        if shared.is_empty():
            return
        shared = shared.with_columns(pl.col("row").first().over("name").alias("first"))
        both = [shared[column].to_numpy() for column in ("row", "first")]
        others = []
        for start in range(0, len(both[0]), _ROWS_AT_ONCE):
            rows, firsts = (column[start : start + _ROWS_AT_ONCE] for column in both)
            differs = (self.read(rows) != self.read(firsts)).any(axis=1)
            others.append(rows[differs])
        self._refuse(others, len(rows_N), "contradict an earlier one of the same photo")

    def _refuse(self, found: list[NDArray[np.int64]], total: int, what: str) -> None:
        rows = np.concatenate(found) if found else np.zeros(0, np.int64)
        if len(rows):
            raise InputError(
                f"teacher.latents: {len(rows):,} of {total:,} latents in {self.config.latents} "
                f"{what}, that of {self.names[int(rows[0])]} first: correct or remove these rows "
                "(photos without a latent are left out)."
            )


KnownTeacher = Teacher | StoredLatents
"""What tells who a teacher is, and how wide its embeddings are."""


def open_latents(config: TeacherConfig) -> StoredLatents:
    """Open a teacher's file of latents; a changed one is opened anew.

    Raises:
        InputError: if it is missing, or is no table of embeddings and names.
    """
    changed = []
    for name in ("latents", "latents_names"):
        given = getattr(config, name)
        if given is None:
            continue
        if "://" in given:
            raise InputError(
                f"teacher.{name}: {given} is no file of this machine: copy it here, and give its "
                "path."
            )
        if not Path(given).is_file():
            raise InputError(f"teacher.{name}: there is no file {given}.")
        changed.append(Path(given).stat().st_mtime_ns)
    return _open(config, tuple(changed))


@lru_cache(maxsize=4)
def _open(config: TeacherConfig, _changed: tuple[int, ...]) -> StoredLatents:
    assert config.latents is not None
    file, names, digests = open_latents_file(config.latents, config.latents_names)
    return StoredLatents(config, file, names, digests[0] if len(digests) == 1 else digest(digests))


def with_latents(manifest: Manifest, latents: StoredLatents) -> Manifest:
    """Return a manifest less the photos that have no latent.

    Raises:
        InputError: if none has one.
    """
    table, name = manifest.table, manifest.source.name
    has_one = latents.places(table["key"], table["uri"], manifest.source.uri).is_not_null()
    if not has_one.any():
        raise InputError(
            f"teacher.latents: no photo of {name} has a latent in {latents.config.latents}, which "
            f"names {_what(latents)} like '{latents.names[0]}', while the photos have uris like "
            f"'{table['uri'][0]}' and keys like '{table['key'][0]}': name the latents by these "
            "uris, or by these keys."
        )
    return manifest.without_unknown(has_one)


def unused_latents(latents: StoredLatents, manifests: Sequence[Manifest]) -> int:
    """Count the latents that are of no photo.

    Raises:
        InputError: if one of them would be of two photos.
    """
    parts = []
    for manifest in manifests:
        table = manifest.table.select("key", "uri")
        rows = latents.places(table["key"], table["uri"], manifest.source.uri)
        parts.append(table.with_columns(rows.alias("row")))
    found = pl.concat(parts).drop_nulls("row").unique("key")
    twice = found.filter(pl.col("row").is_duplicated()).sort("row", "uri")
    if twice.height:
        raise InputError(
            f"teacher.latents: the latent of '{latents.names[twice['row'][0]]}' in "
            f"{latents.config.latents} fits two photos, {twice['uri'][0]} of one set and "
            f"{twice['uri'][1]} of another: name the latents by full paths, or by keys."
        )
    return len(latents.names) - found.height


def _what(latents: StoredLatents) -> str:
    return "keys" if latents.are_keys else "uris"


def _first_rows(names: pl.Series) -> pl.DataFrame:
    rows = pl.int_range(len(names), eager=True)
    table = pl.DataFrame({"key": names, "row": rows}).drop_nulls()
    return table.unique("key", keep="first", maintain_order=True)


def _below(uris: pl.Series, source: str) -> pl.Series:
    """Paths below a source: of a folder, or of the folder that its table or archives lie in."""
    folder = source.rstrip("/")
    if not Path(folder).is_dir():
        parts = folder.split("/")
        fixed = next((i for i, part in enumerate(parts) if any(c in part for c in "*?[")), None)
        folder = "/".join(parts[: len(parts) - 1 if fixed is None else fixed])
    paths = uris.str.replace_all("\\", "/", literal=True).str.strip_prefix("file://")
    return paths.str.strip_prefix(f"{folder}/").str.strip_prefix("./")
