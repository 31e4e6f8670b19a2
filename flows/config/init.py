"""Write a commented config for some photos."""

import json
from itertools import islice
from pathlib import Path

from flows.templates import render
from storage.identity import slugify
from storage.images import IMAGE_SUFFIXES
from storage.root import open_root
from tintem_core.errors import InputError

_LISTS = (".csv", ".tsv", ".parquet", ".tar")
# A bucket may hold millions of objects: the first ones tell whether there are photos.
_LOOKED_AT = 10_000


def write_config(images: str | Path, target: Path) -> None:
    """Write a config that `tintem run` accepts as it is.

    Args:
        images: a folder of photos, or a table, Parquet or tar file of them; local or s3://.
        target: the file to write.

    Raises:
        InputError: if there are no photos, or the target exists already.
    """
    uri = _found(str(images))
    if target.exists():
        raise InputError(f"{target} exists already: remove it, or choose another with --config.")
    name = uri.rpartition("/")[2]
    for suffix in _LISTS:
        name = name.removesuffix(suffix)
    # Strings of JSON are strings of YAML, whatever is in them.
    names = {
        "name": json.dumps(slugify(name)),
        "uri": json.dumps(uri, ensure_ascii=False),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render("tintem.yaml.jinja", **names), encoding="utf-8")


def _found(images: str) -> str:
    """Return where the photos are, as a config says it: a full path, or an s3:// address.

    Raises:
        InputError: if nothing is there.
    """
    uri = images.rstrip("/")
    if "://" not in images:
        uri = str(Path(images).expanduser().resolve())
        if Path(uri).is_dir() or (Path(uri).is_file() and uri.lower().endswith(_LISTS)):
            return uri
        raise InputError(f"there is no folder {images}: give the folder that holds your photos.")
    if uri.lower().endswith(_LISTS):
        folder, _, name = uri.rpartition("/")
        if not open_root(folder).exists(name):
            raise InputError(f"there is no {uri}: give the folder that holds your photos.")
    elif not _holds_photos(uri):
        raise InputError(
            f"{uri} holds no photos (looked for {', '.join(IMAGE_SUFFIXES)}): give the folder "
            "that holds yours."
        )
    return uri


def _holds_photos(uri: str) -> bool:
    paths = (path for path, _ in islice(open_root(uri).walk(), _LOOKED_AT))
    return any(path.lower().endswith(IMAGE_SUFFIXES) for path in paths)
