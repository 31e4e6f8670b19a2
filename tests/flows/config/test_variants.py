"""A variant is the config as if its file had said so."""

from typing import Any

import pytest

from flows.config.load import parse_config
from flows.config.run import RunConfig
from flows.config.variants import variant
from tintem_core.errors import InputError


def test_a_variant_changes_what_it_names_and_nothing_else(config: RunConfig) -> None:
    changed = variant(config, {"training.epochs": 9, "student": {"image_size": 64}})
    assert changed.training.epochs == 9
    assert changed.student.image_size == 64
    assert changed.student.model == config.student.model
    assert changed.training.batch_size == config.training.batch_size
    assert changed.data == config.data
    assert changed.root == config.root
    assert variant(config, {}) == config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student.modell": "x"}, "grid.*'student.modell' is not a setting.*known here: model"),
        ({"data.uri.deep": 1}, "'data.uri.deep' is not a setting"),
        ({"training.epochs": 0}, "'training.epochs' is 0"),
    ],
)
def test_a_setting_that_is_none_is_named_with_its_place(
    config: RunConfig, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        variant(config, changes, "grid[0]")


def test_a_joint_mapping_needs_photos_to_compare(settings: dict[str, Any]) -> None:
    settings["mapping"] |= {"fit": "joint"}
    settings["training"] |= {"batch_size": 8, "accumulation": 2}
    assert parse_config(settings, "test")
    settings["training"]["accumulation"] = 3
    with pytest.raises(InputError, match=r"at least 3: training.batch_size 8 in 3 pieces"):
        parse_config(settings, "test")
