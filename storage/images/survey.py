"""A look at a source before anything is set: how it is laid out, and which settings read it."""

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from storage.errors import SourceError
from storage.images.arrow import ArrowReader
from storage.images.folder import FolderReader
from storage.images.inspect import inspect
from storage.images.open import open_reader
from storage.images.parquet import USUAL_IMAGE_COLUMNS, ParquetReader
from storage.images.select import is_glob, split_of
from storage.images.source import IMAGE_KINDS, IMAGE_SUFFIXES, Head, ImageReader, SourceConfig
from storage.images.table import USUAL_URI_COLUMNS, TableReader
from storage.images.tar import TarReader
from storage.root import Root, open_root

TABLES = (".csv", ".tsv")
ARCHIVES = (".parquet", ".tar", ".arrow")
# A bucket may hold millions of objects, a thousand of them in each answer.
_LOOKED_AT = 10_000
_OPENED = 32
_MOST_NAMED = 20
_LABELS = ("label", "labels", "class", "class_name", "fine_label", "category", "category_name",
           "target", "coarse_label", "label_name", "species")  # fmt: skip
_PLAIN = (pl.String, pl.Boolean, pl.Categorical, pl.Enum)
_SPLITS = ("split", "set", "subset", "partition")


@dataclass(frozen=True)
class Survey:
    """What was found, and the source that reads it."""

    source: SourceConfig
    layout: str
    """In words, such as "class folders"."""
    photos: int
    is_complete: bool
    """Whether all of them were counted."""
    classes: tuple[str, ...]
    """Labels seen; empty where there are none."""
    label_place: str
    """Where the labels come from, in words; empty where there are none."""
    splits: tuple[str, ...]
    """The splits that the source gives; empty where they are drawn."""
    side: int
    """Median of the shorter sides of some photos, pixels."""
    opened: int
    unreadable: int
    """Of those opened."""
    beside: str
    """What else lies there and is not read, in words; empty where there is nothing."""


def survey(uri: str, name: str) -> Survey:
    """Find out how to read what lies at a place.

    Args:
        uri: a folder, a file or a pattern of files; a full path or an s3:// address.
        name: of the dataset.

    Raises:
        SourceError: if there are no images, or no column names them; says what is there.
    """
    uri, beside = _source_uri(uri)
    reader, head = _chosen(SourceConfig(name=name, uri=uri))
    labels = head.entries["label"].drop_nulls()
    # Where all photos are of one split, the index draws: there would be none to test on.
    is_drawn = len(head.splits) == 1 and head.entries["split"].null_count() == 0
    splits = () if is_drawn else head.splits
    sample = head.entries["uri"].gather_every(max(1, head.entries.height // _OPENED)).head(_OPENED)
    seen = pl.concat(inspect(reader, sample, reader.source.model_copy(update={"check": "header"})))
    readable = seen.filter(pl.col("reason").is_null())
    if readable.is_empty():
        raise SourceError(_none_readable(reader, seen))
    side = readable.select(pl.min_horizontal("width", "height").median()).item()
    return Survey(
        source=reader.source,
        layout=_layout(reader, head),
        photos=head.photos,
        is_complete=head.is_complete,
        classes=tuple(sorted(labels.unique())),
        label_place=_label_place(reader) if len(labels) else "",
        splits=tuple(sorted(splits, reverse=True)),
        side=round(side),
        opened=seen.height,
        unreadable=seen.height - readable.height,
        beside=beside,
    )


def _source_uri(uri: str) -> tuple[str, str]:
    """What of a place is read, as a source's uri, and what lies beside it."""
    is_file = uri.lower().endswith((*TABLES, *ARCHIVES)) and not Path(uri).is_dir()
    if is_file or is_glob(uri):
        return uri, ""
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    tables: list[str] = []
    root = open_root(uri)
    for path, size in _files(root):
        kind = Path(path).suffix.lower()
        counts[kind] += 1
        sizes["photos" if kind in IMAGE_SUFFIXES else kind] += size
        if kind in TABLES:
            tables.append(path)
    # A folder of archives has a picture of its authors, one of photos has a small table.
    kinds = [kind for kind in ("photos", *ARCHIVES) if kind in sizes]
    most = max(kinds, key=lambda kind: sizes[kind], default="")
    if most == "photos":
        return uri, f"the table {tables[0]}" if tables else ""
    if most:
        one = [path for path, _ in _files(root) if path.lower().endswith(most)][:2]
        # A single table of paths is read by its own name only.
        return (f"{uri}/{one[0]}" if len(one) == 1 else f"{uri}/*{most}"), ""
    if len(tables) == 1:
        return f"{uri}/{tables[0]}", ""
    if tables:
        raise SourceError(
            f"{uri} holds {len(tables)} tables ({', '.join(sorted(tables)[:3])}) and no photos: "
            "give the one that lists your photos."
        )
    there = ", ".join(f"{n} {kind or 'without suffix'}" for kind, n in counts.most_common(3))
    raise SourceError(
        f"{uri} holds no photos (looked for {IMAGE_KINDS}, {', '.join(ARCHIVES)}, "
        f"{', '.join(TABLES)}; found {there or 'nothing'}): give the folder that holds yours."
    )


def _files(root: Root) -> Iterable[tuple[str, int]]:
    shown = (
        (path, fact.bytes)
        for path, fact in root.walk()
        if not any(part.startswith(".") for part in path.split("/"))
    )
    return shown if root.path() is not None else itertools.islice(shown, _LOOKED_AT)


def _chosen(source: SourceConfig) -> tuple[ImageReader, Head]:
    """The reader with the columns that fit, and its head."""
    reader = open_reader(source)
    columns = reader.columns()
    chosen: dict[str, str | None] = {
        "label_column": _label_column(columns),
        "split_column": _split_column(columns),
    }
    if isinstance(reader, TableReader):
        chosen["uri_column"] = _uri_column(columns, source.uri)
    if isinstance(reader, ParquetReader | ArrowReader):
        chosen["image_column"] = _image_column(columns, source.uri)
    # What the reader takes by itself is not written.
    usual = {"label_column": "label", "split_column": "split"}
    update = {key: name for key, name in chosen.items() if name and name != usual.get(key)}
    if "label" in columns and chosen["label_column"] is None:
        update["labels"] = "none"
    source = source.model_copy(update=update)
    first: SourceError | None = None
    # A class may be called train: the folder's reader refuses to guess, one of its cures is tried.
    for labels in dict.fromkeys((source.labels, "folders", "none")):
        reader = open_reader(source.model_copy(update={"labels": labels}))
        try:
            return reader, reader.head(_LOOKED_AT)
        except SourceError as error:
            first = first or error
            if not isinstance(reader, FolderReader):
                break
    assert first is not None
    raise first


def _label_column(columns: pl.DataFrame) -> str | None:
    """The column that is named like labels, with fewer names than rows where there is a choice."""
    for name in _by_name(columns, _LABELS):
        values = columns[name].drop_nulls()
        is_plain = values.dtype.is_integer() or values.dtype in _PLAIN
        repeats = values.n_unique() < len(values) or name == "label"
        if is_plain and len(values) and repeats:
            return name
    return None


def _split_column(columns: pl.DataFrame) -> str | None:
    for name in _by_name(columns, _SPLITS):
        if columns[name].dtype != pl.String:
            continue
        values = columns[name].drop_nulls().unique()
        if len(values) and all(split_of(value) or not value.strip() for value in values):
            return name
    return None


def _by_name(columns: pl.DataFrame, wanted: tuple[str, ...]) -> list[str]:
    found = {name: name.strip().lower() for name in columns.columns}
    return sorted((n for n in found if found[n] in wanted), key=lambda n: wanted.index(found[n]))


def _uri_column(columns: pl.DataFrame, where: str) -> str | None:
    """The column to name as uri_column; None where the reader's own choice is right."""
    own = next((name for name in USUAL_URI_COLUMNS if name in columns), None)
    texts = [name for name in columns.columns if columns[name].dtype == pl.String]
    paths = [name for name in texts if _names_images(columns[name])]
    if own in paths or (own is not None and not paths):
        return None
    if paths:
        return paths[0]
    raise SourceError(
        f"{where} has no column of paths to photos; its columns are {_named(columns)}: add a "
        "column uri with paths relative to the table."
    )


def _names_images(values: pl.Series) -> bool:
    is_image = values.str.to_lowercase().str.contains(rf"({'|'.join(IMAGE_SUFFIXES)})$")
    return 2 * int(is_image.sum()) > len(values)


def _image_column(columns: pl.DataFrame, where: str) -> str | None:
    found = [name for name in columns.columns if columns[name].dtype == pl.Binary]
    if not found:
        raise SourceError(
            f"{where} has no column of image bytes; its columns are {_named(columns)}: give files "
            "with images inside, or one table of paths."
        )
    return None if set(found) & set(USUAL_IMAGE_COLUMNS) else found[0]


def _named(columns: pl.DataFrame) -> str:
    more = columns.width - _MOST_NAMED
    return ", ".join(columns.columns[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _none_readable(reader: ImageReader, seen: pl.DataFrame) -> str:
    first = seen.row(0, named=True)
    message = (
        f"{reader.source.uri}: none of {seen.height} photos can be read; the first is "
        f"{first['uri']} ({first['reason']})"
    )
    if "://" in first["uri"] and not first["uri"].startswith("s3://"):
        return f"{message}: fetch the photos first, and give their folder."
    if isinstance(reader, TableReader):
        return f"{message}: write paths relative to the table, or absolute ones."
    return f"{message}: give the folder that holds your photos."


def _layout(reader: ImageReader, head: Head) -> str:
    match reader:
        case TarReader():
            return "WebDataset tar files"
        case ParquetReader():
            return "Parquet with images inside"
        case ArrowReader():
            return "a data set saved by Hugging Face's datasets"
        case TableReader():
            return "a table of paths"
    kind = "class folders" if head.entries["label"].null_count() == 0 else "a folder of photos"
    return f"{kind} below folders named after splits" if head.splits else kind


def _label_place(reader: ImageReader) -> str:
    column = reader.source.label_column
    match reader:
        case TarReader():
            return f"field {column} of the .json files" if column else "the .cls or .json files"
        case TableReader() | ParquetReader() | ArrowReader():
            return f"column {column or 'label'}"
    return "the folders"
