"""Small JSON records that know when they were damaged."""

import hashlib
import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from storage.artifact import parse_record
from storage.errors import CorruptRecordError
from storage.identity import digest

_SEAL = "check"


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


def checksum(data: bytes | np.ndarray[Any, np.dtype[np.uint8]]) -> int:
    """CRC-32 (the polynomial of zlib) of any contiguous buffer.

    Not the CRC-32C that Zarr ends its chunks with: over data that ends with its own CRC-32C, that
    is the same number for all data, and a shard of another cache would pass for ours.
    """
    return zlib.crc32(data)  # type: ignore[arg-type]  # arrays are buffers since Python 3.12


def keys_digest(keys: Sequence[str] | pl.Series) -> str:
    """Which images, in which order: what binds a shard's file to its rows."""
    text = keys.str.join("\n")[0] if isinstance(keys, pl.Series) else "\n".join(keys)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
