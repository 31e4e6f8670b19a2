"""The feature cache: what is stored of images, and how it is planned, written, read and mended."""

from storage.cache.cache import FeatureCache
from storage.cache.compaction import Compaction, Fragmentation
from storage.cache.reader import FeatureReader
from storage.cache.spec import CacheSpec, KindSpec
from storage.cache.writer import ShardTask

__all__ = [
    "CacheSpec",
    "Compaction",
    "FeatureCache",
    "FeatureReader",
    "Fragmentation",
    "KindSpec",
    "ShardTask",
]
