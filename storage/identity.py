"""Names that follow from content: the same inputs give the same id on every machine."""

import hashlib
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

from storage.errors import StorageInputError


def canonical_json(spec: Any) -> bytes:
    """The one spelling of a specification: UTF-8, sorted keys, no spaces.

    Raises:
        StorageInputError: if the specification holds NaN, infinity or something JSON cannot say.
    """
    try:
        text = json.dumps(
            spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise StorageInputError(
            f"This specification cannot be identified ({error}). "
            "Use strings, finite numbers, booleans, lists and dictionaries only."
        ) from error
    return text.encode()


def digest(spec: Any) -> str:
    """SHA-256 of the canonical spelling, 64 hex digits."""
    return hashlib.sha256(canonical_json(spec)).hexdigest()


def slugify(text: str) -> str:
    """Lower-case letters without accents, digits and single hyphens; never empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "x"


def distinct_slug(text: str) -> str:
    """A slug, and six digits of a digest where it loses capitals, accents or other scripts.

    A plain name stays as it is. Names that differ only in their punctuation share a slug.
    """
    # Systems spell one accented letter in two ways.
    text = unicodedata.normalize("NFC", text)
    is_plain = text.isascii() and text == text.lower()
    return slugify(text) if is_plain else f"{slugify(text)}-{digest(text)[:6]}"


def make_id(slug: str, spec: Any) -> str:
    """A readable name plus ten digits of the digest of everything that determines the content."""
    return f"{slugify(slug)}-{digest(spec)[:10]}"


def content_key(data: bytes) -> str:
    """The identity of an image: 128-bit BLAKE2b of its bytes, 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits, read in pieces."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
