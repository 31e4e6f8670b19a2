"""Where images, features and artifacts live: arrays and bytes only.

`storage.root` is a folder or an object store, `storage.images` what there is to embed,
`storage.cache` the embeddings; artifacts, the model registry and leases lie beside them.
"""

from storage.artifacts import list_artifacts, read_file, read_record, write_artifact
from storage.cache import CacheSpec, FeatureCache, FeatureReader, KindSpec
from storage.errors import (
    CacheFormatError,
    CacheMismatchError,
    CorruptError,
    CorruptRecordError,
    CorruptShardError,
    DeniedError,
    LatestChangedError,
    LeaseLostError,
    MissingObjectError,
    MissingRowsError,
    SourceError,
    StorageError,
    StorageInputError,
    UnreachableError,
)
from storage.images import Manifest, SourceConfig, build_manifest
from storage.lease import hold
from storage.root import Root, open_root

__all__ = [
    "CacheFormatError",
    "CacheMismatchError",
    "CacheSpec",
    "CorruptError",
    "CorruptRecordError",
    "CorruptShardError",
    "DeniedError",
    "FeatureCache",
    "FeatureReader",
    "KindSpec",
    "LatestChangedError",
    "LeaseLostError",
    "Manifest",
    "MissingObjectError",
    "MissingRowsError",
    "Root",
    "SourceConfig",
    "SourceError",
    "StorageError",
    "StorageInputError",
    "UnreachableError",
    "build_manifest",
    "hold",
    "list_artifacts",
    "open_root",
    "read_file",
    "read_record",
    "write_artifact",
]
