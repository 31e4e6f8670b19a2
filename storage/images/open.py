"""Which reader fits a source."""

from pathlib import Path

from storage.errors import SourceError
from storage.images.arrow import SUFFIX as ARROW
from storage.images.arrow import ArrowReader, is_saved_dataset
from storage.images.folder import FolderReader
from storage.images.manifest import Manifest
from storage.images.parquet import ParquetReader, embeds_images
from storage.images.select import is_glob, matching_files, suffix_of
from storage.images.source import ImageReader, SourceConfig
from storage.images.synthetic import SCHEME, SyntheticReader
from storage.images.table import TableReader
from storage.images.tar import TarReader
from storage.images.tar_stream import COMPRESSED_SUFFIXES, refuse_compressed
from storage.root import Reading


def open_reader(source: SourceConfig | Manifest, reading: Reading | None = None) -> ImageReader:
    """The reader of a source's images.

    Args:
        reading: where this machine keeps the images of remote Parquet files.

    Raises:
        SourceError: if there is nothing at its uri, or it is nothing that can be read.
    """
    source = source.source if isinstance(source, Manifest) else source
    if source.uri.startswith(SCHEME):
        return SyntheticReader(source)
    suffix = suffix_of(source.uri)
    if suffix in COMPRESSED_SUFFIXES and not Path(source.uri).expanduser().is_dir():
        refuse_compressed(source.uri, COMPRESSED_SUFFIXES[suffix])
    is_many = is_glob(source.uri)
    if suffix == ".tar":
        return TarReader(source)
    if suffix == ARROW or (not is_many and is_saved_dataset(source.uri)):
        return ArrowReader(source)
    if suffix in (".csv", ".tsv"):
        return TableReader(source)
    if suffix == ".parquet":
        root, files = matching_files(source, suffix)
        if is_many or embeds_images(root, next(iter(files))):
            return ParquetReader(source, reading)
        return TableReader(source)
    if is_many:
        raise SourceError(f"{source.uri} must end in .tar, .parquet or .arrow. Or name its folder.")
    return FolderReader(source)
