"""`tintem embed`: rows that anybody can check, one sentence for a mistake, no torch."""

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import xarray as xr
from numpy.typing import NDArray
from typer.testing import CliRunner

from flows.cli.commands import app
from flows.data.latents_file import open_latents_file
from flows.inference import embed as embedding
from flows.inference.embed import Embedded, embed_photos, parts_folder, place_of
from flows.inference.model import Answer, open_export
from flows.reporting.base import reporting_to
from storage.embeddings import SUFFIXES, Parts, read_told
from storage.errors import CacheMismatchError, StorageInputError
from storage.images import SourceConfig, build_manifest, write_images
from storage.lease import Lease, hold
from storage.root import open_root
from storage.testing import damaged
from tests.exports import SIZE, WIDTH, write_export
from tests.flows.cli.test_bad_input import tintem
from tests.photos import encoded, photo
from tests.runs import Notes
from tests.storage.hooked import die
from tintem_core.errors import InputError
from tintem_core.export.runtime import session
from tintem_core.views import Pixels
from tintem_pixels import load_pixels


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_export(tmp_path / "root")


def source_of(uri: object) -> SourceConfig:
    return SourceConfig(name="photos", uri=str(uri), labels="none")


def wanted(export: Path, photos: list[Path]) -> NDArray[np.float32]:
    opened = session((export / "student.onnx").read_bytes())
    pixels = np.stack([load_pixels(path, SIZE) for path in photos])
    rows: NDArray[np.float32] = opened.run(None, {"pixels": pixels})[0]
    return rows


def test_every_file_holds_the_same_rows_and_photos_that_cannot_be_read_are_named(
    export: Path, photo_folder: Callable[..., Path], tmp_path: Path
) -> None:
    photos = photo_folder(7)
    paths = sorted(photos.iterdir())
    (photos / "broken.png").write_bytes(b"no photo")
    told = tintem(
        "embed", str(export), str(photos), "-o", str(tmp_path / "x.parquet"), home=tmp_path
    )
    assert told.returncode == 0, told.stderr
    assert "1 of 8 photos (broken.png: it is no image that Pillow can read)" in told.stderr
    for name in ("x.npy", "x.zarr"):
        embed_photos(open_export(str(export)), source_of(photos), tmp_path / name)
    assert not list(tmp_path.glob("*.parts"))
    table = pl.read_parquet(tmp_path / "x.parquet")
    assert table.columns == ["key", "uri", "embedding"]
    assert table["uri"].to_list() == [path.name for path in paths]
    keys = build_manifest(SourceConfig(name="n", uri=str(photos), max_unreadable_share=1))
    assert set(table["key"]) == set(keys.table["key"])
    rows = table["embedding"].to_numpy()
    assert rows == pytest.approx(wanted(export, paths), abs=1e-5)
    assert pl.read_parquet_metadata(tmp_path / "x.parquet")["tintem.model"] == (
        "small/student_uint8.onnx"
    )
    opened = xr.open_zarr(tmp_path / "x.zarr")
    assert (opened.embedding.values == rows).all()
    assert list(opened.uri.values) == table["uri"].to_list()
    assert (np.load(tmp_path / "x.npy") == rows).all()
    unreadable = pl.read_csv(tmp_path / "x.npy.unreadable.csv")
    assert unreadable["uri"].to_list() == ["broken.png"]
    # What was embedded once can stand for a teacher.
    array, names, _ = open_latents_file(str(tmp_path / "x.npy"), str(tmp_path / "x.npy.names.csv"))
    assert names.to_list() == table["key"].to_list()
    assert (array.rows(0, 7) == rows).all()


@pytest.mark.parametrize("file", ["student.onnx", "onnx/model.onnx"])
def test_every_onnx_file_of_an_export_gives_the_same_embeddings(
    export: Path, photo_folder: Callable[..., Path], tmp_path: Path, file: str
) -> None:
    photos = photo_folder(3)
    out = tmp_path / "x.npy"
    embed_photos(open_export(str(export / file)), source_of(photos), out)
    assert np.load(out) == pytest.approx(wanted(export, sorted(photos.iterdir())), abs=1e-5)


def test_photos_of_a_bucket_are_embedded_as_those_of_a_folder(
    export: Path,
    photo_folder: Callable[..., Path],
    s3_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = photo_folder(6)
    bucket = open_root(s3_url)
    for path in photos.iterdir():
        bucket.write(f"photos/{path.name}", path.read_bytes())
    told = tintem("embed", str(export), f"{s3_url}/photos", "-o", "x.parquet", home=tmp_path)
    assert told.returncode == 0, told.stderr
    table = pl.read_parquet("x.parquet").sort("uri")
    assert table["uri"].to_list() == sorted(path.name for path in photos.iterdir())
    rows = wanted(export, sorted(photos.iterdir()))
    assert table["embedding"].to_numpy() == pytest.approx(rows, abs=1e-5)


def test_a_score_is_told_where_the_export_has_one(
    photo_folder: Callable[..., Path], tmp_path: Path
) -> None:
    photos = photo_folder(5)
    (photos / "broken.png").write_bytes(b"no photo")
    model = open_export(str(write_export(tmp_path / "root", has_score=True)))
    for name in ("x.parquet", "x.npy", "x.zarr"):
        embed_photos(model, source_of(photos), tmp_path / name)
    table = pl.read_parquet(tmp_path / "x.parquet")
    assert table.columns == ["key", "uri", "ood_score", "embedding"]
    rows = table["embedding"].to_numpy()
    # The bank holds the first two directions.
    nearest = rows[:, :2].max(axis=1) / np.linalg.norm(rows, axis=1)
    assert table["ood_score"].to_numpy() == pytest.approx(nearest, abs=1e-5)
    names = pl.read_csv(tmp_path / "x.npy.names.csv")
    assert names["ood_score"].to_numpy() == pytest.approx(nearest, abs=1e-5)
    assert xr.open_zarr(tmp_path / "x.zarr").ood_score.values == pytest.approx(nearest, abs=1e-5)


def test_photos_may_lie_in_tars_tables_and_parquet(export: Path, tmp_path: Path) -> None:
    data = [encoded(photo(number)) for number in range(4)]
    folder = tmp_path / "photos"
    folder.mkdir()
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for number, each in enumerate(data):
            (folder / f"{number}.png").write_bytes(each)
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(each)
            tar.addfile(info, io.BytesIO(each))
    pl.DataFrame({"path": [f"photos/{n}.png" for n in range(4)]}).write_csv(tmp_path / "list.csv")
    packed = write_images(
        tmp_path / "packed", [(f"{n}.png", each, None) for n, each in enumerate(data)], split="test"
    )
    model = open_export(str(export))
    found = []
    for number, uri in enumerate([folder, tmp_path / "photos.tar", tmp_path / "list.csv", packed]):
        out = tmp_path / f"{number}.parquet"
        embed_photos(model, source_of(uri), out)
        found.append(pl.read_parquet(out).sort("key"))
    for each in found[1:]:
        assert each["key"].equals(found[0]["key"])
        assert each["embedding"].to_numpy() == pytest.approx(
            found[0]["embedding"].to_numpy(), abs=1e-5
        )


def test_what_was_stopped_goes_on_to_the_same_bytes(
    export: Path,
    photo_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedding, "_PHOTOS_PER_PART", 4)
    photos = photo_folder(14)
    # One batch at a time, so that the count tells which was the last.
    model = replace(open_export(str(export)), at_once=1, batch_size=2)
    whole, out = tmp_path / "whole.parquet", tmp_path / "x.parquet"
    embed_photos(model, source_of(photos), whole)
    calls: list[int] = []

    def failing(pixels: Pixels) -> Answer:
        calls.append(len(pixels))
        if len(calls) > 5:
            raise MemoryError
        return model.embed(pixels)

    with pytest.raises(MemoryError):
        embed_photos(replace(model, embed=failing), source_of(photos), out)
    assert not out.exists()
    done = len(list(parts_folder(out).glob("*.parquet"))) * 4
    assert done in (4, 8)
    notes = Notes()
    with reporting_to(notes):
        embed_photos(model, source_of(photos), out)
    assert notes.work["Embed"] == 14 - done
    assert any(f"{done} of 14 photos are embedded already" in note for note in notes.notes)
    assert out.read_bytes() == whole.read_bytes()


def test_what_changed_meanwhile_is_embedded_again_and_what_is_gone_is_not_told(
    export: Path,
    photo_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedding, "_PHOTOS_PER_PART", 4)
    photos, out = photo_folder(8), tmp_path / "x.parquet"
    model = open_export(str(export))
    with monkeypatch.context() as broken:
        broken.setattr(embedding, "write_embeddings", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            embed_photos(model, source_of(photos), out)
    (photos / "photo-0001.png").unlink()
    photo(99).save(photos / "photo-0002.png")
    notes = Notes()
    with reporting_to(notes):
        done = embed_photos(model, source_of(photos), out)
    assert (notes.work["Embed"], done.photos) == (1, 7)
    table = pl.read_parquet(out).sort("uri")
    paths = sorted(photos.iterdir())
    assert table["uri"].to_list() == [path.name for path in paths]
    assert table["embedding"].to_numpy() == pytest.approx(wanted(export, paths), abs=1e-5)


def test_the_beginning_of_another_model_is_not_gone_on_with(
    export: Path, photo_folder: Callable[..., Path], tmp_path: Path
) -> None:
    photos, out = photo_folder(3), tmp_path / "x.npy"
    first = open_export(str(export))
    with pytest.raises(ZeroDivisionError):
        embed_photos(replace(first, embed=lambda _: 1 / 0), source_of(photos), out)  # type: ignore[arg-type, return-value]
    other = open_export(str(export / "student.onnx"))
    with pytest.raises(CacheMismatchError, match=r"x\.npy\.parts holds the beginning of another"):
        embed_photos(other, source_of(photos), out)
    assert embed_photos(first, source_of(photos), out).photos == 3


def test_no_torch_and_no_prefect_are_needed(
    export: Path, photo_folder: Callable[..., Path], tmp_path: Path
) -> None:
    blocked = ("torch", "timm", "onnx", "prefect")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); "
        "from flows.cli import main; main()"
    )
    photos = photo_folder(2)
    command = [sys.executable, "-c", code, "embed", str(export), str(photos), "-o", "x.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "x.npy").shape == (2, WIDTH)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (lambda e, p, o: [p, p, "-o", o], "photos is no export: give the folder of a student"),
        (lambda e, p, o: [e / "no.onnx", p, "-o", o], "there is no .*no.onnx: give the folder"),
        (lambda e, p, o: [e / "record.json", p, "-o", o], "is no ONNX file of an export"),
        (lambda e, p, o: [e / "mapping.onnx", p, "-o", o], "mapping.onnx takes no photos"),
        (lambda e, p, o: [e, p, "-o", "x.csv"], r"must end in \.parquet, \.npy or \.zarr\."),
        (lambda e, p, o: [e, p, "-o", "s3://b/x.npy"], "is not on this machine"),
        (lambda e, p, o: [e, p, "-o", "no/x.npy"], "there is no folder no: make it"),
        (lambda e, p, o: [e, p / "none", "-o", o], "There is no folder .*none"),
        (lambda e, p, o: [e, e, "-o", o], "holds no images"),
        (lambda e, p, o: [p, "-o", o], "takes a model and photos"),
        (lambda e, p, o: [e, p, "--teacher", "run.yaml", "-o", o], "the photos alone"),
        (lambda e, p, o: [p, "--teacher", "no.yaml", "-o", o], "there is no config file no.yaml"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(
    export: Path,
    photo_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: Callable[[Path, Path, Path], list[object]],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = arguments(export, photo_folder(2), tmp_path / "x.npy")
    told = CliRunner().invoke(app, ["embed", *map(str, given)])
    assert isinstance(told.exception, InputError | StorageInputError), told.output
    assert re.search(sentence, str(told.exception))
    assert not list(tmp_path.glob("x.npy*"))


def test_a_file_that_is_there_stays_and_a_damaged_model_is_refused(
    export: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.npy"
    for there in (out, tmp_path / "x.npy.names.csv"):
        there.write_text("mine")
        with pytest.raises(InputError, match=f"{there} exists: delete it, or give another -o."):
            place_of(str(out))
        there.unlink()
    shutil.copy(export / "student.onnx", export / "student_uint8.onnx")
    with pytest.raises(StorageInputError, match="not the file that was published"):
        open_export(str(export))


def test_photos_none_of_which_can_be_read_leave_nothing_behind(
    export: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(b"no photo")
    with pytest.raises(InputError, match=r"none of the 1 photos of .* can be read \(a.png: "):
        embed_photos(open_export(str(export)), source_of(photos), tmp_path / "x.npy")
    assert not list(tmp_path.glob("x.npy*"))


def test_killed_between_the_file_and_the_end_of_its_parts_the_same_command_ends_as_usual(
    export: Path, photo_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = source_of(photo_folder(8)), tmp_path / "x.npy"
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "delete", lambda _: die())
        with pytest.raises(KeyboardInterrupt):
            embed_photos(open_export(str(export)), photos, out)
    whole = out.read_bytes()
    assert embed_photos(open_export(str(export)), photos, place_of(str(out))).photos == 8
    assert out.read_bytes() == whole
    assert not parts_folder(out).exists()
    with pytest.raises(InputError, match=f"{out} exists: delete it"):
        place_of(str(out))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_killed_while_the_parts_are_deleted_the_file_is_there_and_no_beginning(
    export: Path,
    photo_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    photos, out = source_of(photo_folder(8)), tmp_path / f"x{suffix}"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: die())
        with pytest.raises(KeyboardInterrupt):
            embed_photos(open_export(str(export)), photos, out)
    assert list(parts_folder(out).glob("*.parquet"))
    with pytest.raises(InputError, match=f"{out} exists: delete it"):
        place_of(str(out))
    assert not parts_folder(out).exists()
    assert read_told(out)[0] == 8


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_who_has_waited_for_the_same_file_is_told_what_is_in_it(
    export: Path,
    photo_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    folder, out = photo_folder(8), tmp_path / f"x{suffix}"
    (folder / "broken.png").write_bytes(b"no photo")
    first: list[Embedded] = []

    @contextlib.contextmanager
    def waiting(*given: Any) -> Iterator[Lease]:
        # Both have begun, and the other one was sooner.
        monkeypatch.setattr(embedding, "hold", hold)
        first.append(embed_photos(open_export(str(export)), source_of(folder), out))
        with hold(*given) as lease:
            yield lease

    monkeypatch.setattr(embedding, "hold", waiting)
    second = embed_photos(open_export(str(export)), source_of(folder), out)
    assert second.photos == first[0].photos == 8
    assert second.files == first[0].files
    assert second.unreadable.equals(first[0].unreadable)
    assert second.unreadable["uri"].to_list() == ["broken.png"]
    assert not parts_folder(out).exists()


def test_who_comes_when_the_other_one_has_just_ended_is_refused_and_leaves_nothing(
    export: Path, photo_folder: Callable[..., Path], tmp_path: Path
) -> None:
    photos, out = source_of(photo_folder(8)), place_of(str(tmp_path / "x.npy"))
    out.write_text("made since then")
    with pytest.raises(InputError, match=f"{out} exists: delete it"):
        embed_photos(open_export(str(export)), photos, out)
    assert [path.name for path in tmp_path.glob("x.npy*")] == ["x.npy"]


def test_a_file_that_the_parts_did_not_become_stays(
    export: Path, photo_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = source_of(photo_folder(8)), tmp_path / "x.npy"
    with monkeypatch.context() as patch:
        patch.setattr("flows.inference.embed.write_embeddings", lambda *_: die())
        with pytest.raises(KeyboardInterrupt):
            embed_photos(open_export(str(export)), photos, out)
    photo_folder(2, first=8)
    out.write_text("mine")
    with pytest.raises(InputError, match="holds the beginning of another one: delete one of the"):
        embed_photos(open_export(str(export)), photos, place_of(str(out)))
    assert out.read_text() == "mine"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_process_leaves_no_file_and_the_same_command_goes_on(
    export: Path, photo_folder: Callable[..., Path], tmp_path: Path
) -> None:
    photos, out = photo_folder(2500), tmp_path / "x.npy"
    command = [sys.executable, "-c", "from flows.cli import main; main()", "embed", str(export),
               str(photos), "-o", str(out)]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ)
    first = parts_folder(out) / "000000.parquet"
    while not first.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "of 2,500 photos are embedded already" in done.stdout
    whole = tmp_path / "whole.npy"
    embed_photos(open_export(str(export)), source_of(photos), whole)
    assert out.read_bytes() == whole.read_bytes()


def test_a_record_of_an_export_with_one_flipped_bit_is_refused(export: Path) -> None:
    path = export / "record.json"
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        path.write_bytes(damaged(data, place, bit=place % 5))
        with pytest.raises(StorageInputError, match=r"record\.json is damaged: fetch the folder"):
            open_export(str(export))
