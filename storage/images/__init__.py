"""Images: where they come from, and the manifest that lists them."""

from storage.images.changed import forget_changed, mark_changed, without_changed
from storage.images.index import build_manifest, draws_splits
from storage.images.inspect import is_image
from storage.images.manifest import Manifest
from storage.images.open import open_reader
from storage.images.source import IMAGE_SUFFIXES, ImageReader, SourceConfig
from storage.images.survey import ARCHIVES, TABLES, Survey, survey

__all__ = [
    "ARCHIVES",
    "IMAGE_SUFFIXES",
    "TABLES",
    "ImageReader",
    "Manifest",
    "SourceConfig",
    "Survey",
    "build_manifest",
    "draws_splits",
    "forget_changed",
    "is_image",
    "mark_changed",
    "open_reader",
    "survey",
    "without_changed",
]
