"""A folder of Parquet with several splits, as the Hub lays it out, is read as it is."""

from pathlib import Path

import polars as pl
import pytest

from storage.images import build_manifest, survey
from tests.photos import encoded, photo


@pytest.mark.parametrize(
    "files",
    [
        {
            "train-00000-of-00002": "train",
            "train-00001-of-00002": "train",
            "test-00000-of-00001": "test",
            "validation-00000-of-00001": "test",
        },
        {"data/train/0000": "train", "data/train/0001": "train", "data/validation/0000": "test"},
    ],
)
def test_the_names_of_parquet_files_or_of_their_folders_are_the_splits(
    tmp_path: Path, files: dict[str, str]
) -> None:
    for number, name in enumerate(files):
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"image": {"bytes": encoded(photo(4 * number + i)), "path": None}, "label": i % 2}
            for i in range(4)
        ]
        pl.DataFrame(rows).write_parquet(path)

    found = survey(str(tmp_path), "hub")

    assert (found.layout, found.splits) == ("Parquet with images inside", ("train", "test"))
    table = build_manifest(found.source).table
    names = table["uri"].str.split(".parquet#").list.first()
    assert [files[name] for name in names] == table["split"].to_list()
