"""What other packages may rely on, fixed: a change here is a change for users."""

import storage

STORAGE = """
CacheFormatError CacheMismatchError CacheSpec CorruptError CorruptRecordError CorruptShardError
DeniedError FeatureCache FeatureReader KindSpec LatestChangedError LeaseLostError Manifest
MissingObjectError MissingRowsError Root SourceConfig SourceError StorageError StorageInputError
UnreachableError build_manifest hold list_artifacts open_root read_file read_record write_artifact
"""


def test_the_public_names_of_storage_stay_as_they_are() -> None:
    assert storage.__all__ == STORAGE.split()
    assert all(hasattr(storage, name) for name in storage.__all__)
