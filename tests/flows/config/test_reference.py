"""The page, the schema and the full config say what the models check."""

import json
from collections.abc import Callable
from pathlib import Path

import yaml

from flows.config.init import write_config
from flows.config.load import load_config
from flows.config.reference import full_config, page, schema
from flows.config.run import RunConfig

DOCS = Path(__file__).parents[3] / "docs"


def test_page_and_schema_in_the_docs_are_those_of_the_models() -> None:
    assert (DOCS / "settings.md").read_text() == page(), "make reference"
    assert json.loads((DOCS / "tintem.schema.json").read_text()) == schema(), "make reference"


def test_every_setting_is_on_the_page_with_what_it_means() -> None:
    rows = [line.split(" | ") for line in page().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert all(len(row) >= 4 and row[-1].removesuffix("|").strip() for row in rows)


def test_a_full_config_is_the_same_run_and_names_every_setting(
    photo_folder: Callable[..., Path], tmp_path: Path
) -> None:
    photos = photo_folder(20, classes=("disc", "plain"))
    write_config(photos, tmp_path / "short.yaml")
    write_config(photos, tmp_path / "full.yaml", full=True)
    assert load_config(tmp_path / "full.yaml") == load_config(tmp_path / "short.yaml")
    lines = (tmp_path / "full.yaml").read_text().splitlines()
    named = {line.strip(" #").split(":")[0] for line in lines if ":" in line}
    for section, field in RunConfig.model_fields.items():
        assert {section, *getattr(field.annotation, "model_fields", {})} <= named


def test_a_default_in_a_full_config_can_be_taken_as_it_stands() -> None:
    text = full_config({"data": {"name": "a", "uri": "b"}})
    (line,) = (line for line in text.splitlines() if line.startswith("  # test_share:"))
    assert yaml.safe_load(line.removeprefix("  # ")) == {"test_share": 0.2}
