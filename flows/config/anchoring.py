"""Relative paths in a run's YAML file are relative to the file."""

from pathlib import Path
from typing import Any

from flows.config.sweep import anchor_students


def resolve_paths(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make relative local paths absolute; leave URLs and everything malformed to validation."""

    def anchor(section: Any, key: str) -> None:
        if isinstance(section, dict) and isinstance(section.get(key), str):
            value = section[key]
            if "://" not in value:
                section[key] = str(folder / Path(value).expanduser())

    content.setdefault("root", "tintem-data")
    anchor(content, "root")
    anchor(content.get("data"), "uri")
    for teacher in (content.get("teacher"), *_list(content.get("other_teachers"))):
        if not isinstance(teacher, dict):
            continue
        for key in ("onnx", "python", "latents", "latents_names"):
            anchor(teacher, key)
        if teacher.get("weights") != "pretrained":
            anchor(teacher, "weights")
        # Otherwise it is a name on the Hugging Face Hub.
        if isinstance(hf := teacher.get("hf"), str) and (folder / Path(hf).expanduser()).is_dir():
            anchor(teacher, "hf")
    anchor(content.get("student"), "weights")
    anchor(content.get("student"), "python")
    anchor(content.get("runtime"), "copies_folder")
    anchor(content.get("evaluation"), "masks")
    anchor_students(content.get("sweep"), anchor)
    if isinstance(nightly := content.get("nightly"), dict):
        anchor_students({"list": nightly.get("students")}, anchor)
    for section, key in (("evaluation", "ood"), ("support", "photos")):
        if isinstance(found := content.get(section), dict):
            for source in _list(found.get(key)):
                anchor(source, "uri")
    return content


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
