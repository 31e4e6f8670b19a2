"""Write a commented config for some photos, with the settings that read them."""

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from flows.config.recipes import Recipe, recipe_for
from flows.config.reference import full_config
from flows.templates import render
from storage.identity import slugify
from storage.images import ARCHIVES, TABLES, SourceConfig, Survey, survey
from storage.images.synthetic import synthetic_source
from storage.root import open_root
from tintem_core.errors import InputError

_SIDE = 224
# The patch sides of the template's models, pixels, and the fewest patches along a side: of photos
# of 32 px a student would see four patches, too few to tell where in the photo something is.
_TEACHER_PATCH, _STUDENT_PATCH, _FEWEST_PATCHES = 14, 16, 8
_FEWEST_TRAIN, _FEWEST_TEST = 16, 4
# Settings of a source that a survey finds out, in the order in which they are written.
_FOUND = ("uri_column", "image_column", "label_column", "split_column", "labels")
_MOST_NAMED = 5


@dataclass(frozen=True)
class Written:
    """What was found, and what follows from it."""

    survey: Survey
    recipe: Recipe
    teacher_size: int
    student_size: int

    def lines(self) -> list[tuple[str, str]]:
        """Say what was found, to people: a word and a sentence each."""
        found = self.survey
        lines = [
            ("photos", f"{_count(found)}, shorter side {found.side} px in the median"),
            ("layout", f"{found.layout}, read as {found.source.uri}"),
            ("labels", _labels(found)),
            ("splits", _splits(found)),
            ("recipe", f"{self.recipe.title} photos. {self.recipe.reason}"),
        ]
        if self.teacher_size < _SIDE or self.student_size < _SIDE:
            lines.append(("inputs", self.size_reason()))
        if found.unreadable:
            lines.append(("note", f"{found.unreadable} of {found.opened} photos cannot be read"))
        if found.beside:
            lines.append(("note", f"{found.beside} lies beside the photos and is not read"))
        if not found.is_complete:
            lines.append(
                ("note", "not all photos were counted: tintem plan counts them, and "
                 "docs/training.md has the settings for other numbers")
            )  # fmt: skip
        if found.is_complete and found.photos < _FEWEST_TRAIN + _FEWEST_TEST:
            lines.append(
                ("note", f"a run needs {_FEWEST_TRAIN} photos to learn from and {_FEWEST_TEST} to "
                 "test on: add photos first")
            )  # fmt: skip
        return lines

    def size_reason(self) -> str:
        """Say why the models' inputs are as large as they are."""
        if self.teacher_size >= _SIDE and self.student_size >= _SIDE:
            return "the size that the models were made for"
        return (
            f"teacher {self.teacher_size} px, student {self.student_size} px: larger ones cost "
            f"more and show no more of photos of {self.survey.side} px; multiples of the patches "
            f"({_TEACHER_PATCH} and {_STUDENT_PATCH} px), {_FEWEST_PATCHES} a side at least"
        )


def write_config(images: str | Path, target: Path, *, full: bool = False) -> Written:
    """Look at some photos, and write a config that `tintem run` accepts as it is.

    Args:
        images: a folder of photos, or a table, Parquet or tar file of them, or a pattern of such
            files; local or s3://.
        target: the file to write.
        full: write every setting, those that stay at their default as comments.

    Raises:
        InputError: if nothing is there, or the target exists already.
        SourceError: if there are no photos, or no column names them.
    """
    uri = _place(str(images))
    if target.exists():
        raise InputError(f"{target} exists already: remove it, or choose another with --config.")
    found = survey(uri, _name(uri))
    written = Written(
        found,
        recipe_for(found.photos),
        _input_size(found.side, _TEACHER_PATCH),
        _input_size(found.side, _STUDENT_PATCH),
    )
    # Strings of JSON are strings of YAML, whatever is in them.
    data = {
        key: json.dumps(value, ensure_ascii=False)
        for key in ("name", "uri", *_FOUND)
        if (value := getattr(found.source, key)) != SourceConfig.model_fields[key].default
    }
    content = render(
        "tintem.yaml.jinja",
        data=data,
        count=_count(found),
        has_labels=bool(found.classes),
        has_splits=bool(found.splits),
        recipe=written.recipe,
        teacher_size=written.teacher_size,
        student_size=written.student_size,
        size_reason=written.size_reason(),
    )
    if full:
        content = full_config(yaml.safe_load(content))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content, encoding="utf-8")
    return written


def _place(images: str) -> str:
    """Return where the photos are, as a config says it: a full path, or an s3:// address.

    Raises:
        InputError: if nothing is there.
    """
    uri = images.rstrip("/")
    is_list = uri.lower().endswith((*TABLES, *ARCHIVES))
    is_pattern = uri.lower().endswith(ARCHIVES) and any(c in uri for c in "*?[")
    if "://" not in images:
        uri = str(Path(images).expanduser().resolve())
        if is_pattern or Path(uri).is_dir() or (Path(uri).is_file() and is_list):
            return uri
        raise InputError(f"there is no folder {images}: give the folder that holds your photos.")
    if is_list and not is_pattern:
        folder, _, name = uri.rpartition("/")
        if not open_root(folder).exists(name):
            raise InputError(f"there is no {uri}: give the folder that holds your photos.")
    return uri


def _name(uri: str) -> str:
    """Return the name of the dataset: its file's or folder's, without what stands for many."""
    parts = [part for part in uri.split("/") if not any(c in part for c in "*?")]
    name = parts[-1]
    for suffix in (*TABLES, *ARCHIVES):
        name = name.removesuffix(suffix)
    slug = slugify(name)
    # Two sets of a run cannot have one name.
    return f"{slug}-photos" if slug == synthetic_source(1, 0).name else slug


def _input_size(side: int, patch: int) -> int:
    """Return the smallest multiple of the patch that shows photos whole, at most the usual size."""
    patches = max(-(-side // patch), _FEWEST_PATCHES)
    return min(patches * patch, _SIDE)


def _count(found: Survey) -> str:
    if found.is_complete:
        return f"{found.photos:,}"
    # Of archives the bytes tell about how many there are; of a bucket only a part was listed.
    is_estimate = found.source.uri.lower().endswith(ARCHIVES)
    return f"about {found.photos:,}" if is_estimate else f"{found.photos:,} or more"


def _labels(found: Survey) -> str:
    if not found.classes:
        return "none found, none needed"
    named = ", ".join(found.classes[:_MOST_NAMED])
    more = ", ..." if len(found.classes) > _MOST_NAMED else ""
    seen = "" if found.is_complete else " seen"
    classes = "1 class" if len(found.classes) == 1 else f"{len(found.classes):,} classes"
    return f"{classes}{seen} ({named}{more}) from {found.label_place}, used for scores only"


def _splits(found: Survey) -> str:
    if found.splits:
        return f"{' and '.join(found.splits)}, as the source gives them"
    share = SourceConfig.model_fields["test_share"].default
    return f"none given, {share:.0%} of the photos are drawn for testing"
