"""The settings that the documentation shows or names are settings."""

import re
import types
from typing import Any, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from flows.config.load import parse_config
from flows.config.run import RunConfig
from flows.config.variants import variant
from tests.docs.pages import PAGES, Block, blocks, prose
from tintem_core.errors import InputError

BASE: dict[str, Any] = {
    "data": {"name": "photos", "uri": "photos"},
    "teacher": {"model": "tf_efficientnet_lite0", "image_size": 128},
    "student": {"model": "test_resnet", "image_size": 64},
    "evaluation": {"ood": [{"name": "textiles", "uri": "textiles"}]},
}
SHOWN = [
    block
    for page in PAGES
    for block in blocks(page)
    if block.language == "yaml" and yaml.safe_load(block.text) is not None
]
_FILES = r"\.(?:csv|data|html|jinja|json|md|npy|npz|onnx|parquet|png|py|pt|safetensors|ya?ml)$"


def read(text: str) -> RunConfig:
    """Read settings, a whole config or sections of one, with those that every run has."""
    config = parse_config({**BASE, **yaml.safe_load(text)}, "docs")
    if config.sweep is not None:
        for point in config.sweep.points(config.student.name):
            variant(config, point.settings, point.where)
    return config


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: f"{block.page}: {block.begins}")
def test_a_block_of_settings_is_a_config_or_a_part_of_one(block: Block) -> None:
    assert set(yaml.safe_load(block.text)) <= set(RunConfig.model_fields)
    assert read(block.text)


@pytest.mark.parametrize(
    "text", ["training: {epoch: 1}", "sweep: {grid: {student.modell: [a]}}", "teachers: {}"]
)
def test_a_setting_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        read(text)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, tuple, list):
        return [model for each in get_args(annotation) for model in _models(each)]
    return []


def is_setting(name: str) -> bool:
    """Whether a dotted name leads to a field of a config."""
    models: list[type[BaseModel]] = [RunConfig]
    for part in name.split("."):
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        if not fields:
            return False
        models = [model for field in fields for model in _models(field.annotation)]
    return True


NAMED = sorted(
    {
        (page, name)
        for page in PAGES
        for name in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?:[:`])", prose(page))
        if name.split(".")[0] in RunConfig.model_fields and not re.search(_FILES, name)
    }
)


@pytest.mark.parametrize(("page", "name"), NAMED)
def test_a_setting_that_a_sentence_names_is_one(page: str, name: str) -> None:
    assert is_setting(name)


def test_settings_are_told_from_what_is_none() -> None:
    assert len(NAMED) > 40
    assert is_setting("views.recipe.flip")
    assert is_setting("nightly.gates")
    assert not is_setting("training.epoch")
    assert not is_setting("training.epochs.more")
