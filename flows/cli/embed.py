"""`tintem embed`: photos into a file of embeddings, by a student or by the mapped teacher."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from flows.cli.command import console, errors, example

if TYPE_CHECKING:
    from flows.inference.model import PhotoModel

app = typer.Typer()
_NAMED = 3


@app.command(
    epilog=example(
        "tintem embed tintem-data/exports/ID photos -o embeddings.parquet",
        "tintem embed --teacher tintem.yaml photos -o teacher.parquet",
    )
)
def embed(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] PHOTOS",
            help="an export's folder or an ONNX file inside; then a folder, table, tar or Parquet "
            "of photos, or s3://bucket/folder",
        ),
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="file to write: .parquet, .npy or .zarr"),
    ],
    teacher: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG.yaml", help="the mapped teacher of this run, and no MODEL"),
    ] = None,
    uri_column: Annotated[
        str | None, typer.Option(help="column of paths in a table; else the usual names")
    ] = None,
    image_column: Annotated[
        str | None, typer.Option(help="column of image bytes, in a tar the photos' extension")
    ] = None,
) -> None:
    """Embed photos with an exported student, or with the teacher in its students' space.

    Every photo that can be read gets a row: key, uri, embedding. Killed, the same command goes on.
    """
    from flows.inference.embed import embed_photos, place_of
    from flows.reporting.base import reporting_to
    from flows.reporting.terminal import TerminalReporter
    from storage.images import SourceConfig

    model_place, photos = _places(places, teacher)
    out = place_of(output)
    # Where the command is called from is no part of what it makes.
    uri = photos if "://" in photos else str(Path(photos).expanduser().absolute())
    model = _open(model_place, teacher)
    source = SourceConfig(
        name="photos",
        uri=uri,
        labels="none",
        uri_column=uri_column,
        image_column=image_column,
        bits=model.bits,
    )
    with reporting_to(TerminalReporter(console)):
        done = embed_photos(model, source, out)
    console.print(
        f"{done.photos:,} photos, {model.width} numbers each, by {escape(model.name)}",
        highlight=False,
        soft_wrap=True,
    )
    for path in done.files:
        console.print(f"  {escape(str(path))}", highlight=False, soft_wrap=True)
    if done.unreadable.height:
        first = done.unreadable.head(_NAMED).to_dicts()
        named = "; ".join(f"{row['uri']}: {row['reason']}" for row in first)
        listed = done.photos + done.unreadable.height
        errors.print(
            escape(
                f"left out, as they cannot be read: {done.unreadable.height:,} of {listed:,} "
                f"photos ({named}); {done.files[-1]} names all of them"
            ),
            highlight=False,
            soft_wrap=True,
        )


def _places(places: list[str], teacher: Path | None) -> tuple[str, str]:
    from tintem_core.errors import InputError

    if teacher is None and len(places) == 2:
        return places[0], places[1]
    if teacher is not None and len(places) == 1:
        return "", places[0]
    raise InputError(
        "`tintem embed` takes a model and photos: `tintem embed exports/ID photos/ -o "
        "embeddings.parquet`; with --teacher CONFIG.yaml the photos alone."
    )


def _open(place: str, teacher: Path | None) -> "PhotoModel":
    if teacher is not None:
        # Its imports take seconds, and a student needs none of them.
        from flows.inference.teacher import mapped_teacher

        return mapped_teacher(teacher)
    from flows.inference.model import open_export

    return open_export(place)
