"""What is embedded already of a list of photos, in a folder beside the file that it will become.

made-from.json    what determines the embeddings, apart from the photos
000000.parquet    some photos: uri, bytes, modified; key, embedding, score, or the reason for none

Legend: ``N`` photos, ``K`` width.
"""

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from storage.errors import CacheMismatchError
from storage.root import open_root

_MADE_FROM = "made-from.json"
LISTED = ("uri", "bytes", "modified")
"""What tells a photo from another one that lay in its place."""


def are_begun(folder: Path) -> bool:
    """Whether a folder holds the beginning of a file; what is left of deleted parts is removed."""
    if (folder / _MADE_FROM).exists():
        return True
    # Another process may be about to begin: what it writes aside is hidden.
    if any(folder.glob("[!.]*")):
        _delete(folder)
    return False


def _delete(folder: Path) -> None:
    # First: some of the parts would pass for the beginning of another file.
    (folder / _MADE_FROM).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


class Parts:
    """Tables of embeddings; each appears whole or not at all."""

    def __init__(
        self, folder: Path, made_from: Mapping[str, Any], width: int, *, has_score: bool = False
    ) -> None:
        """Open the parts in a folder, or none yet.

        Args:
            folder: made where it is not there.
            made_from: what determines the embeddings, apart from the photos; JSON.
            width: K.
            has_score: whether ``ood_score`` is told too.

        Raises:
            CacheMismatchError: if the parts there were made from something else.
        """
        self.folder = folder
        self._root = open_root(folder)
        score = ("ood_score",) if has_score else ()
        self.names = ("key", "uri", *score)
        """What is told of a photo beside its embedding."""
        self._schema: dict[str, pl.DataType | type[pl.DataType]] = {
            "uri": pl.String,
            "bytes": pl.Int64,
            "modified": pl.Int64,
            "key": pl.String,
            "embedding": pl.Array(pl.Float32, width),
            "ood_score": pl.Float32,
            "reason": pl.String,
        }
        spelled = json.dumps(made_from, sort_keys=True, indent=1).encode()
        if not self._root.create(_MADE_FROM, spelled):
            raise CacheMismatchError(
                f"{folder} holds the beginning of another embedding, of another model or other "
                "photos: delete it, or give another -o."
            )
        self._next = 1 + max((int(path.stem) for path in self.files()), default=-1)

    def files(self) -> list[Path]:
        """The tables, in the order in which they were added."""
        return sorted(self.folder.glob("[0-9]*.parquet"))

    def keep(self, listed: pl.DataFrame) -> pl.DataFrame:
        """Drop photos that are not listed any more, or were changed; return those still missing.

        Args:
            listed: the photos there are, with the columns LISTED.
        """
        missing = listed
        for path in self.files():
            found = pl.read_parquet(path)
            valid = found.join(listed, on=LISTED, how="semi", maintain_order="left")
            if valid.height < found.height:
                self._write(path.name, valid)
            missing = missing.join(valid, on="uri", how="anti", maintain_order="left")
        return missing

    def add(self, rows: Mapping[str, Any]) -> None:
        """Store some photos, by column; the embedding of one without a key is no number."""
        self._write(f"{self._next:06d}.parquet", pl.DataFrame(rows, schema=self._schema))
        self._next += 1

    def rows(self) -> pl.LazyFrame:
        """All photos, in the order in which they were added."""
        return pl.scan_parquet(self.files(), glob=False)

    def delete(self) -> None:
        """Forget all of it; killed meanwhile, what is left counts as nothing."""
        _delete(self.folder)

    def _write(self, name: str, table: pl.DataFrame) -> None:
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        self._root.write(name, buffer.getvalue())
