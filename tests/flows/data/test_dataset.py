from collections.abc import Callable
from pathlib import Path

from PIL import Image

from flows.data.dataset import Dataset
from storage.images import SourceConfig, build_manifest


def test_a_picture_of_another_set_is_left_out_however_it_is_saved(
    photo_folder: Callable[..., Path],
) -> None:
    data, strange = photo_folder(6), photo_folder(4, name="strange", first=50)
    (strange / "bytes.png").write_bytes((data / "photo-0000.png").read_bytes())
    with Image.open(data / "photo-0001.png") as picture:
        picture.save(strange / "pixels.bmp")
    mine, theirs = (
        Dataset(build_manifest(SourceConfig(name=folder.name, uri=str(folder))))
        for folder in (data, strange)
    )
    assert len(theirs.keys()) == 6
    left = theirs.without_photos_of(mine)
    assert set(left.uris()) == {f"photo-{i:04d}.png" for i in range(50, 54)}
    assert left.without_photos_of(mine).keys() == left.keys()
