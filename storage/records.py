"""Small JSON records that show damage, and what is recorded about files."""

import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from storage.errors import CorruptRecordError
from storage.identity import digest

_SEAL = "check"
# Inside FileFact the name `bytes` means its field.
_Data = bytes


@dataclass(frozen=True)
class FileFact:
    """What a file was when it was written."""

    bytes: int
    crc32: int

    @classmethod
    def of(cls, data: _Data) -> "FileFact":
        """What to record about a file with this content."""
        return cls(len(data), checksum(data))

    def matches(self, data: _Data) -> bool:
        """Whether this is the content that was recorded."""
        return self == FileFact.of(data)

    def problem(self, data: _Data | None) -> str | None:
        """How content differs from what was recorded, None for a file that is not there."""
        if data is None:
            return "it is missing"
        if len(data) != self.bytes:
            return f"it has {len(data)} bytes instead of {self.bytes}"
        return None if self.matches(data) else "its checksum differs"


def seal(payload: dict[str, Any]) -> bytes:
    """Readable JSON of a payload plus a digest of it under ``check``."""
    sealed = {**payload, _SEAL: digest(payload)[:16]}
    return (json.dumps(sealed, indent=2, ensure_ascii=False) + "\n").encode()


def unseal(data: bytes, where: str) -> dict[str, Any]:
    """The payload of a sealed record.

    Raises:
        CorruptRecordError: if any value differs from what was sealed.
    """
    payload = parse_record(data, where)
    if payload.pop(_SEAL, None) != digest(payload)[:16]:
        raise CorruptRecordError(f"{where} is damaged: its check does not match its content.")
    return payload


def parse_record(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object. Raises CorruptRecordError, which names the place."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise CorruptRecordError(
            f"{where} is not readable JSON ({error}). Delete it and run the stage again."
        ) from error
    if not isinstance(found, dict):
        raise CorruptRecordError(
            f"{where} holds no JSON object. Delete it and run the stage again."
        )
    return found


def checksum(data: bytes | memoryview | np.ndarray[Any, np.dtype[np.uint8]]) -> int:
    """CRC-32 (the polynomial of zlib) of any contiguous buffer.

    Not the CRC-32C that Zarr ends its chunks with: over data that ends with its own CRC-32C, that
    is the same number for all data, and a shard of another cache would pass for ours.
    """
    return zlib.crc32(data)  # type: ignore[arg-type]  # arrays are buffers since Python 3.12
