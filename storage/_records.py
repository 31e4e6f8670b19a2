"""Small JSON records that know when they were damaged."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np

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


def crc32c(data: bytes | np.ndarray[Any, np.dtype[np.uint8]]) -> int:
    """CRC-32C (Castagnoli) of any contiguous buffer, without copying it."""
    return int(google_crc32c.value(np.frombuffer(data, np.uint8)))


def keys_digest(keys: Sequence[str]) -> str:
    """Which images, in which order: what binds a shard's file to its rows."""
    return hashlib.blake2b("\n".join(keys).encode(), digest_size=8).hexdigest()
