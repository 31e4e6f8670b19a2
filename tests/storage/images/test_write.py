"""Images from a Python program become a source."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.errors import SourceError
from storage.images import SourceConfig, build_manifest, open_reader, write, write_images

PAGE = Path(__file__).parents[3] / "docs/photos.md"


def test_bytes_pictures_and_arrays_are_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_FILE_BYTES", 2_000)
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (20, 24, 3), dtype=np.uint8) for _ in range(8)]
    buffer = io.BytesIO()
    Image.fromarray(pixels[0]).save(buffer, "BMP")
    uri = write_images(str(tmp_path), (
        ("file", buffer.getvalue(), "a"), ("picture", Image.fromarray(pixels[1]), "b"),
        ("unlabelled", pixels[2]), *((f"more-{i}", pixels[i], "a") for i in range(3, 7)),
    ), "train")  # fmt: skip
    write_images(str(tmp_path), [("deep", rng.integers(0, 9999, (9, 9), dtype=np.uint16))], "test")
    # Several files, so that not all images were held at once.
    assert len(list(tmp_path.glob("train-*.parquet"))) > 2
    manifest = build_manifest(SourceConfig(name="x", uri=uri))
    assert (len(manifest.keys("train")), len(manifest.keys("test"))) == (7, 1)
    assert sorted(manifest.classes) == ["a", "b"]
    reader = open_reader(manifest)
    found = [
        np.asarray(Image.open(io.BytesIO(reader.read(u)))) for u in sorted(manifest.table["uri"])
    ]
    assert found[0].dtype == np.uint16
    for shown, wanted in zip(found[1:], pixels, strict=False):
        np.testing.assert_array_equal(shown, wanted)


def test_what_is_no_image_is_named_and_a_split_is_written_once(tmp_path: Path) -> None:
    for wrong in (np.zeros((4, 4)), "a.png", np.zeros((2, 2, 7), np.uint8)):
        with pytest.raises(SourceError, match="odd is no image"):
            write_images(str(tmp_path), [("odd", wrong)], "train")  # type: ignore[list-item]
    with pytest.raises(SourceError, match="no image came"):
        write_images(str(tmp_path), [], "train")
    assert list(tmp_path.iterdir()) == []
    write_images(str(tmp_path), [("x", np.zeros((4, 4), np.uint8))], "train")
    with pytest.raises(SourceError, match="of the split train already"):
        write_images(str(tmp_path), [("x", np.zeros((4, 4), np.uint8))], "train")


def test_the_example_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(block.strip().splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    names: dict[str, str] = {}
    exec(block, names)
    manifest = build_manifest(SourceConfig(name="x", uri=names["uri"]))
    assert manifest.table.height == 12
