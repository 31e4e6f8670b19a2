"""Images: where they come from, and the manifest that lists them."""

from storage.images.changed import forget_changed, mark_changed, without_changed
from storage.images.index import build_manifest, draws_splits
from storage.images.inspect import is_image, photo_key
from storage.images.manifest import Manifest, manifest_records
from storage.images.open import open_reader
from storage.images.source import IMAGE_SUFFIXES, ImageReader, SourceConfig
from storage.images.survey import ARCHIVES, TABLES, Survey, survey
from storage.images.table import USUAL_URI_COLUMNS
from storage.images.text_table import read_text_table
from storage.images.write import write_images

__all__ = [
    "ARCHIVES",
    "IMAGE_SUFFIXES",
    "TABLES",
    "USUAL_URI_COLUMNS",
    "ImageReader",
    "Manifest",
    "SourceConfig",
    "Survey",
    "build_manifest",
    "draws_splits",
    "forget_changed",
    "is_image",
    "manifest_records",
    "mark_changed",
    "open_reader",
    "photo_key",
    "read_text_table",
    "survey",
    "without_changed",
    "write_images",
]
