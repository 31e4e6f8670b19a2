"""What can go wrong in storage.

StorageError
├── StorageInputError         the user asked for something impossible; the message holds the cure
│   ├── SourceError           a source of images that cannot be used
│   ├── DeniedError           something that may not be read or written with the rights at hand
│   ├── CacheMismatchError    what lies at this place was made from something else
│   └── CacheFormatError      written by another version of the format
├── MissingObjectError        nothing is stored under this path
├── MissingRowsError          embeddings that were asked for are not in the cache yet
├── LatestChangedError        another student came into force than the one compared with
├── UnreachableError          an object store that cannot be reached, or is at fault itself
├── LeaseLostError            another process has taken over what this one was working on
├── HeldError                 another process works on what this one would not wait for
└── CorruptError              stored bytes that differ from what was recorded
    ├── CorruptRecordError    a commit record, a row table or a specification
    └── CorruptShardError     a shard of embeddings
"""


class StorageError(Exception):
    """Root of every error that storage raises on purpose."""


class StorageInputError(StorageError):
    """The user's input cannot work; the message says what, where and the cure."""


class SourceError(StorageInputError):
    """A source of images that cannot be used."""


class DeniedError(StorageInputError):
    """Something that may not be read or written with the rights at hand."""


class CacheMismatchError(StorageInputError):
    """What lies at this place was made from something else than what is asked for."""


class CacheFormatError(StorageInputError):
    """Written by another version of the format."""


class MissingObjectError(StorageError):
    """Nothing is stored under this path."""


class MissingRowsError(StorageError):
    """Embeddings that were asked for are not in the cache yet."""


class UnreachableError(StorageError):
    """An object store that cannot be reached, or is at fault itself: it may pass."""


class LeaseLostError(StorageError):
    """Another process has taken over what this one was working on."""


class HeldError(StorageError):
    """Another process works on something, and it was not to be waited for."""


class LatestChangedError(StorageError):
    """Another student came into force than the one that was compared with."""


class CorruptError(StorageError):
    """Stored bytes differ from what was recorded about them."""


class CorruptRecordError(CorruptError):
    """A commit record, a row table or a specification whose bytes are damaged."""


class CorruptShardError(CorruptError):
    """A shard of embeddings that is missing, truncated or changed."""
