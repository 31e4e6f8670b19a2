"""CSV as people write it: by Excel, on Windows, with blanks."""

import codecs
import io

import polars as pl

from storage.errors import SourceError

_SEPARATORS = (",", ";", "\t")
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text_table(data: bytes, name: str, where: str) -> pl.DataFrame:
    """A CSV or TSV as text, without blanks round its headers, and without empty rows.

    Cells of a column whose header has blanks round it are freed of theirs too.

    Raises:
        SourceError: if it is no UTF-8, and no byte order mark says what it is.
    """
    encoding = next((e for mark, e in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{where} is no UTF-8 (byte {error.start}). Save it as CSV UTF-8."
        ) from error
    header = text.partition("\n")[0]
    usual = "\t" if name.lower().endswith(".tsv") else ","
    separator = usual if usual in header else max(_SEPARATORS, key=header.count)
    separator = separator if separator in header else usual
    table = pl.read_csv(io.BytesIO(text.encode()), separator=separator, infer_schema=False)
    padded = [column for column in table.columns if column != column.strip()]
    table = table.with_columns(pl.col(padded).str.strip_chars())
    names = [column.strip() for column in table.columns]
    if len(set(names)) == len(names):
        table.columns = names
    cells = pl.all().is_null() | (pl.all().str.strip_chars() == "")
    return table.filter(~pl.all_horizontal(cells)) if table.width else table


def refuse_web_addresses(uris: pl.Series, where: str) -> None:
    """Raises SourceError where a table names photos of the web."""
    web = uris.filter(uris.str.contains("^https?://"))
    if len(web):
        raise SourceError(
            f"{where} names {web[0]}: photos are read from folders and from s3://. Download them, "
            "and name the files."
        )
