"""Labels as text: one spelling of every class, whatever the types in which a source holds them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from storage.errors import SourceError

_NESTED = (pl.List, pl.Array, pl.Struct, pl.Object, pl.Binary)


@dataclass(frozen=True, eq=False)
class LabelColumn:
    """The labels in one file, as they are stored."""

    where: str
    values: pl.Series
    names: tuple[str, ...] = ()
    """Names of the classes that numbers stand for."""

    @property
    def kind(self) -> str | None:
        """What the labels are; None where there are none."""
        dtype = self.values.dtype
        if self.values.null_count() == len(self.values):
            return None
        if dtype.is_numeric():
            return "a number"
        return "true or false" if dtype == pl.Boolean else "text"


def class_names(data: Path | bytes, label: str | None) -> tuple[str, ...]:
    """What Hugging Face writes into a Parquet file beside integer labels."""
    return names_in(pl.read_parquet_metadata(data).get("huggingface", "{}"), label)


def names_in(description: str | bytes, label: str | None) -> tuple[str, ...]:
    """The class names in Hugging Face's description of a file's columns; none where it has none."""
    try:
        described = json.loads(description)
    except ValueError:
        return ()
    feature: Any = described.get("info", {}).get("features", {}).get(label, {})
    return tuple(map(str, feature.get("names", []))) if isinstance(feature, dict) else ()


def as_text(columns: Sequence[LabelColumn]) -> list[pl.Series]:
    """The labels of several files of one source, null where there is none.

    A number outside the names of its classes is no label, nor is NaN or a blank.

    Raises:
        SourceError: if the files cannot be brought to one spelling.
    """
    columns = [LabelColumn(c.where, _cleaned(c), c.names) for c in columns]
    named = [column for column in columns if column.names]
    for column in named[1:]:
        if column.names != named[0].names:
            raise SourceError(
                f"{named[0].where} and {column.where} name their classes differently "
                f"({_some(named[0].names)}; {_some(column.names)}). Read them as two sources, or "
                "set labels: none."
            )
    if named:
        return [_named(column, named[0]) for column in columns]
    kinds: dict[str, LabelColumn] = {}
    for column in columns:
        if column.kind is not None:
            kinds.setdefault(column.kind, column)
    numbers = [column for column in columns if column.kind == "a number"]
    if len(kinds) > 1 and not (set(kinds) == {"a number", "text"} and _all_numbers(columns)):
        (kind, first), (other, second), *_ = kinds.items()
        raise SourceError(
            f"The label is {kind} in {first.where}, and {other} in {second.where}. Give all files "
            "one type, or set labels: none."
        )
    if len({column.values.dtype.is_float() for column in numbers}) > 1 or len(kinds) > 1:
        numbers_as: type[pl.DataType] = pl.Int64 if all(map(_is_whole, numbers)) else pl.Float64
    else:
        return [_without_hidden(column, numbers).cast(pl.String) for column in columns]
    return [
        (c.values.cast(numbers_as) if c in numbers else c.values).cast(pl.String) for c in columns
    ]


def as_notes(column: LabelColumn) -> pl.Series:
    """What is written beside the images of one file, as text, null where nothing is.

    Blanks and NaN are nothing. A number is the name of its class where it has one; a whole number
    is spelled the same in every type.

    Raises:
        SourceError: if the column holds lists, records or bytes.
    """
    if isinstance(column.values.dtype, _NESTED):
        raise SourceError(
            f"{column.where}: the column {column.values.name!r} holds no numbers or text, but "
            f"{column.values.dtype}. Name another."
        )
    cleaned = LabelColumn(column.where, _cleaned(column), column.names)
    values = cleaned.values
    if column.names:
        return _named(cleaned, cleaned)
    if values.dtype.is_float():
        is_whole = values.is_finite() & (values == values.round())
        whole = values.set(~is_whole.fill_null(False), None).cast(pl.Int64, strict=False)
        return whole.cast(pl.String).zip_with(is_whole.fill_null(True), values.cast(pl.String))
    return values.cast(pl.String)


def _cleaned(column: LabelColumn) -> pl.Series:
    values = column.values
    if isinstance(values.dtype, _NESTED):
        raise SourceError(
            f"{column.where}: the label {values.name!r} is no number or text, but {values.dtype}. "
            "Name another label_column, or set labels: none."
        )
    if values.dtype.is_float():
        return values.fill_nan(None)
    if values.dtype in (pl.String, pl.Categorical, pl.Enum):
        text = values.cast(pl.String).str.strip_chars()
        is_blank = text.str.to_lowercase().is_in(["", "nan"])
        return text.to_frame("label").select(pl.when(~is_blank).then("label"))["label"]
    return values


def _named(column: LabelColumn, named: LabelColumn) -> pl.Series:
    """The labels of a file in the names of their classes."""
    values, names = column.values, named.names
    if column.kind == "text" and not values.drop_nulls().is_in(names).all():
        other = values.drop_nulls().filter(~values.drop_nulls().is_in(names))[0]
        raise SourceError(
            f"{column.where} has the label {other!r}, which is none of the classes that "
            f"{named.where} names ({_some(names)}). Read them as two sources, or set labels: none."
        )
    if column.kind in ("text", None):
        return values.cast(pl.String)
    if not _is_whole(column):
        raise SourceError(
            f"{column.where} has labels that are no whole numbers, although {named.where} names "
            "classes. Name another label_column, or set labels: none."
        )
    numbers = dict(enumerate(names))
    return values.cast(pl.Int64).replace_strict(numbers, default=None, return_dtype=pl.String)


def _without_hidden(column: LabelColumn, numbers: Sequence[LabelColumn]) -> pl.Series:
    """The labels of a file; none where all are -1, as test sets hide theirs, but others have some.

    Where the classes have no names, -1 beside other numbers may be a class.
    """
    if column not in numbers or any(_is_hidden(c) for c in numbers) == all(
        map(_is_hidden, numbers)
    ):
        return column.values
    return column.values.clear(len(column.values)) if _is_hidden(column) else column.values


def _is_hidden(column: LabelColumn) -> bool:
    return bool((column.values.drop_nulls().cast(pl.Float64) == -1).all())


def _is_whole(column: LabelColumn) -> bool:
    values = column.values.drop_nulls()
    return not values.dtype.is_float() or bool((values == values.round()).all())


def _all_numbers(columns: Sequence[LabelColumn]) -> bool:
    """Whether all that is text spells whole numbers."""
    texts = (column.values.drop_nulls() for column in columns if column.kind == "text")
    return all(text.str.contains(r"^-?\d+$").all() for text in texts)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + ("…" if len(names) > 3 else "")
