"""Photos into a file of embeddings; killed at any moment, the same call goes on.

Legend: ``B`` batch, ``K`` width.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.inference.model import PhotoModel
from flows.reporting.base import Advance, reporter
from storage.embeddings import (
    LISTED,
    SUFFIXES,
    Parts,
    are_begun,
    beside,
    read_told,
    write_embeddings,
)
from storage.errors import DeniedError, MissingObjectError
from storage.images import ImageReader, SourceConfig, open_reader, photo_key
from storage.lease import hold
from storage.root import open_root
from tintem_core.errors import InputError
from tintem_core.views import Pixels
from tintem_pixels import centre_crop, decoded

_PHOTOS_PER_PART = 1024


@dataclass(frozen=True)
class Embedded:
    """A finished file."""

    photos: int
    unreadable: pl.DataFrame
    """``uri`` and ``reason`` of those left out."""
    files: tuple[Path, ...]
    """The file that was asked for, and those beside it."""


class Rows(NamedTuple):
    """Some photos in order: key, embedding (B, K) and score (B,), or why there is none."""

    keys: list[str | None]
    embedding: NDArray[np.float32]
    scores: NDArray[np.float32]
    reasons: list[str | None]


def place_of(given: str) -> Path:
    """Return the file to write, once it is known that it can be, before models are loaded.

    Raises:
        InputError: if it has another suffix, is there already, or has no folder.
    """
    if "://" in given:
        raise InputError(f"{given} is not on this machine: give a local file, and copy it then.")
    out = Path(given).expanduser()
    if out.suffix not in SUFFIXES:
        raise InputError(f"{out} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")
    # What lies beside an unfinished file may be of this very command, which was killed.
    written = [] if are_begun(parts_folder(out)) else [out, *beside(out).values()]
    _refuse_written(written)
    if not out.parent.is_dir():
        raise InputError(f"there is no folder {out.parent}: make it, or correct -o.")
    return out


def _refuse_written(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.exists():
            raise InputError(f"{path} exists: delete it, or give another -o.")


def parts_folder(out: Path) -> Path:
    """Where what is embedded already lies until the file is whole."""
    return out.with_name(f"{out.name}.parts")


def embed_photos(model: PhotoModel, source: SourceConfig, out: Path) -> Embedded:
    """Embed every photo of a source that can be read.

    A photo is in the file once per uri. A part of 1,024 photos counts once it is on the disk, so
    that a kill costs no more than that; whoever comes second waits.

    Args:
        model: what embeds.
        source: the photos.
        out: a file that :func:`place_of` has let pass.

    Raises:
        SourceError: if there are no photos.
        CacheMismatchError: if an unfinished file of something else lies at this place.
        InputError: if no photo can be read, or a file is there that these parts did not become.
    """
    reader = open_reader(source)
    listed = reader.entries().select(LISTED)
    folder = parts_folder(out)
    made_from = {"model": model.identity, "photos": source.model_dump(mode="json")}
    parts = Parts(folder, made_from, model.width, has_score=model.has_score)
    with hold(open_root(folder), "embed", lambda who: reporter().note(f"waiting for {who}")):
        if out.exists() and not are_begun(folder):
            # Another process has made it meanwhile.
            photos, unreadable = read_told(out)
        else:
            photos, unreadable = _complete(parts, model, reader, listed, out, source.uri)
    parts.delete()
    files = (out, *(path for path in beside(out).values() if path.exists()))
    return Embedded(photos, unreadable, files)


def _complete(
    parts: Parts, model: PhotoModel, reader: ImageReader, listed: pl.DataFrame, out: Path, uri: str
) -> tuple[int, pl.DataFrame]:
    """Embed what is missing and write the file; return what is told of it."""
    missing = parts.keep(listed)
    if out.exists() and not parts.files():
        # Another process has made it since this one looked.
        parts.delete()
        _refuse_written([out])
    if out.exists() and missing.height:
        raise InputError(
            f"{out} exists, and {parts.folder} holds the beginning of another one: delete one of "
            "the two, or give another -o."
        )
    if known := listed.height - missing.height:
        reporter().note(f"{known:,} of {listed.height:,} photos are embedded already")
    with reporter().track("Embed", missing.height, "photos") as advance:
        # The same batches as without a kill, and all cores at work on a few photos too.
        share = -(-listed.height // model.at_once)
        _add(parts, model, reader, missing, max(1, min(model.batch_size, share)), advance)
    told = {"tintem.model": model.name, "tintem.identity": model.identity}
    _refuse_nothing(parts, uri)
    # Where a kill came before the parts were deleted, this is the same file once more.
    return write_embeddings(parts, out, told)


def _refuse_nothing(parts: Parts, uri: str) -> None:
    found = parts.rows().select("key", "uri", "reason").collect()
    if found["key"].count() == 0:
        parts.delete()
        raise InputError(
            f"none of the {found.height:,} photos of {uri} can be read ({found['uri'][0]}: "
            f"{found['reason'][0]}): give others."
        )


def _add(
    parts: Parts,
    model: PhotoModel,
    reader: ImageReader,
    missing: pl.DataFrame,
    batch: int,
    advance: Advance,
) -> None:
    """Embed photos, part by part; threads read and decode ahead of the one that stores."""
    cores = os.cpu_count() or 1
    turn = threading.Semaphore(model.at_once)

    def work(uris: list[str]) -> Rows:
        return _embedded(model, reader, uris, turn)

    with ThreadPoolExecutor(cores) as pool:
        batches = _in_order(pool, work, missing, batch, 2 * cores)
        for part in missing.iter_slices(_PHOTOS_PER_PART):
            found: list[Rows] = []
            while sum(len(rows.keys) for rows in found) < part.height:
                found.append(next(batches))
                advance(len(found[-1].keys))
            parts.add(
                {
                    **part.to_dict(),
                    "key": [key for rows in found for key in rows.keys],
                    "embedding": np.concatenate([rows.embedding for rows in found]),
                    "ood_score": np.concatenate([rows.scores for rows in found]),
                    "reason": [reason for rows in found for reason in rows.reasons],
                }
            )


def _in_order(
    pool: ThreadPoolExecutor,
    work: Callable[[list[str]], Rows],
    missing: pl.DataFrame,
    batch: int,
    ahead: int,
) -> Iterator[Rows]:
    """Yield the rows of one batch after the other; none reaches from one part into the next."""
    waiting: deque[Future[Rows]] = deque()
    try:
        for part in missing.iter_slices(_PHOTOS_PER_PART):
            for piece in part.iter_slices(batch):
                waiting.append(pool.submit(work, piece["uri"].to_list()))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _embedded(
    model: PhotoModel, reader: ImageReader, uris: list[str], turn: threading.Semaphore
) -> Rows:
    """Read, decode and embed some photos; the reason stands in place of one that cannot be read."""
    looked = [_look(model, reader, uri) for uri in uris]
    is_read = [square is not None for _, square, _ in looked]
    embedding = np.full((len(uris), model.width), np.nan, np.float32)
    scores = np.full(len(uris), np.nan, np.float32)
    if any(is_read):
        pixels = np.stack([square for _, square, _ in looked if square is not None])
        with turn:
            found = model.embed(pixels)
        embedding[is_read] = found.embedding
        if found.score is not None:
            scores[is_read] = found.score
    keys, reasons = [key for key, _, _ in looked], [reason for _, _, reason in looked]
    return Rows(keys, embedding, scores, reasons)


def _look(
    model: PhotoModel, reader: ImageReader, uri: str
) -> tuple[str | None, Pixels | None, str | None]:
    """Return a photo's key and what the model sees of it, or why it cannot be read."""
    try:
        data = reader.read(uri)
        with decoded(data, model.bits) as photo:
            return photo_key(data, photo), centre_crop(photo.image, model.image_size), None
    except MissingObjectError:
        return None, None, "the file is missing"
    except (DeniedError, OSError, ValueError) as error:
        return None, None, str(error) or type(error).__name__
