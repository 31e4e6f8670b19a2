"""A root in a local folder."""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.errors import DeniedError, MissingObjectError, StorageInputError
from storage.root.base import ObjectFacts, Root, clean_path

PART_SUFFIX = ".part"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


class LocalRoot(Root):
    """Objects are files; each is written aside, flushed to disk and renamed into place."""

    def __init__(self, url: str) -> None:
        folder = Path(url).expanduser().absolute()
        with _translate_errors(folder, "read"):
            found = next(place for place in (folder, *folder.parents) if place.exists())
        if not found.is_dir():
            below = "" if found == folder else f", so {folder} cannot be a folder"
            raise StorageInputError(f"{found} is a file{below}. Name a folder instead.")
        super().__init__(str(folder))
        self._folder = folder

    def path(self, rel: str = "") -> Path:
        return self._folder / clean_path(rel)

    def read(self, path: str) -> bytes:
        try:
            with _translate_errors(self.path(path), "read"):
                _refuse_no_file(self.path(path))
                return self.path(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise MissingObjectError(f"{self.url} holds no {path}.") from error

    def write(self, path: str, data: bytes) -> None:
        target = self.path(path)
        with _translate_errors(target, "written"):
            part = _write_aside(target, data)
            try:
                part.replace(target)
            except OSError:
                part.unlink(missing_ok=True)
                raise
        _flush_folder(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        target = self.path(path)
        with _translate_errors(target, "written"):
            part = _write_aside(target, data)
        try:
            _publish(part, target)
        except FileExistsError:
            # A network folder may have done what it was asked, and its answer was lost.
            if self.read_or_none(path) != data:
                return False
        finally:
            part.unlink(missing_ok=True)
        _flush_folder(target.parent)
        return True

    def exists(self, path: str) -> bool:
        target = self.path(path)
        return target.is_file() or any(True for _ in _files(target))

    def read_range(self, path: str, start: int, length: int) -> bytes:
        try:
            with _translate_errors(self.path(path), "read"):
                _refuse_no_file(self.path(path))
                with self.path(path).open("rb") as stream:
                    stream.seek(start)
                    data = stream.read(length)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise MissingObjectError(f"{self.url} holds no {path}.") from error
        if len(data) != length:
            raise MissingObjectError(f"{self.url}/{path} ends before byte {start + length}.")
        return data

    def walk(self, prefix: str = "") -> Iterator[tuple[str, ObjectFacts]]:
        base = self.path(prefix)
        if base.is_file():
            yield clean_path(prefix), _facts(base.stat())
        skip = len(str(self._folder).rstrip("/")) + 1
        for entry in _files(base):
            try:
                fact = _facts(entry.stat())
            except FileNotFoundError:
                continue
            yield _readable(entry.path[skip:]), fact

    def folders(self, prefix: str = "") -> list[str]:
        base = self.path(prefix)
        if not base.is_dir():
            return []
        return sorted(e.name for e in base.iterdir() if e.is_dir() and any(True for _ in _files(e)))

    def delete(self, prefix: str) -> None:
        target = self.path(prefix)
        with _translate_errors(target, "deleted"):
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def unfinished(self, prefix: str = "") -> dict[str, ObjectFacts]:
        found = {}
        for part in self.path(prefix).rglob(f".*{PART_SUFFIX}"):
            with suppress(FileNotFoundError):
                found[str(part.relative_to(self._folder))] = _facts(part.stat())
        return dict(sorted(found.items()))


def _refuse_no_file(path: Path) -> None:
    """Raises FileNotFoundError for a pipe or a device, which reading might never end."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise FileNotFoundError(errno.ENOENT, "it is no file", str(path))


def _facts(status: os.stat_result) -> ObjectFacts:
    # The date of the last change of the file, not of its content alone: programs that copy files
    # set the latter back (rsync -t, cp -p), so that another content may bear the same date.
    return ObjectFacts(status.st_size, max(status.st_ctime_ns, status.st_mtime_ns))


@contextmanager
def _translate_errors(place: Path, wish: str) -> Iterator[None]:
    """Raise what the system refuses as an error with a cure.

    Raises:
        DeniedError: if rights are lacking; StorageInputError: if writing is impossible here.
    """
    try:
        yield
    except OSError as error:
        said = f"{place} cannot be {wish} ({error.strerror or type(error).__name__})."
        if error.errno in _DENIED:
            raise DeniedError(f"{said} Give yourself the rights, or use another folder.") from error
        if wish == "written":
            cure = "Use another folder"
            if error.errno in _FULL:
                cure = "Free some space, or use another folder"
            elif error.errno in _IN_THE_WAY:
                cure = "Move what is in the way, or use another folder"
            raise StorageInputError(f"{said} {cure}.") from error
        raise


def _write_aside(target: Path, data: bytes) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{secrets.token_hex(6)}{PART_SUFFIX}")
    try:
        with part.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part


def _publish(part: Path, target: Path) -> None:
    """Put a file where none is. Raises FileExistsError: the first of two writers wins."""
    try:
        # A hard link, unlike a rename, refuses to replace.
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:
        # Some network folders have no hard links: others may see an empty object for a moment.
        target.touch(exist_ok=False)
        part.replace(target)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files(
    folder: Path, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[os.DirEntry[str]]:
    """Every published file below a folder; half-written ones are invisible.

    Links are followed, but not back into a folder that is being listed, and not into nothing.

    Args:
        above: (device, inode) of the folders on the way here.
    """
    try:
        with _translate_errors(folder, "read"):
            status = folder.stat()
            entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        entries.close()
        return
    with entries:
        for entry in entries:
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link to itself
                continue
            if is_folder:
                yield from _files(Path(entry.path), above | {here})
            elif is_file and not (entry.name.startswith(".") and entry.name.endswith(PART_SUFFIX)):
                yield entry


def _readable(path: str) -> str:
    """A path as UTF-8. Bytes that are not are spelled out, so that reading it finds nothing."""
    if path.isascii():
        return path
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
