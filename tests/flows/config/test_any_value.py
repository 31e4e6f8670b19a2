"""Whatever stands at a setting, the config is read or refused in one sentence."""

import copy
import math
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from flows.config.load import parse_config
from flows.config.run import RunConfig
from tintem_core.errors import InputError

BASE = {
    "root": "nowhere",
    "data": {"name": "shapes", "uri": "photos"},
    "teacher": {"model": "test_vit"},
    "student": {"model": "test_resnet"},
}
VALUES = st.one_of(
    st.sampled_from(
        [-1, 0, 1, 10**18, 10**400, -1e300, 1e300, math.inf, -math.inf, math.nan, 0.5, 1e-320,
         True, None, "", "\0", "text", "a: b", "../..", [], [1], ["a", "b"], {}, {"a": 1}, [[]],
         [{}], "9" * 5000]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.one_of(st.integers(), st.text(max_size=5), st.none()), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)  # fmt: skip


def fields(model: type[BaseModel], *above: str) -> Iterator[tuple[str, ...]]:
    """Every setting, those of sections and of lists of sections included."""
    for name, field in model.model_fields.items():
        yield (*above, name)
        for section in sections(field.annotation):
            yield from fields(section, *above, name)


def sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from sections(part)


FIELDS = sorted(set(fields(RunConfig)))


def test_every_section_is_walked_through() -> None:
    assert len(FIELDS) > 120
    assert ("training", "learning_rate") in FIELDS
    assert ("views", "recipe", "name") in FIELDS


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(FIELDS), VALUES), min_size=1, max_size=3))
def test_any_value_at_any_setting_is_read_or_refused_in_one_sentence(
    changes: list[tuple[tuple[str, ...], Any]],
) -> None:
    content: dict[str, Any] = copy.deepcopy(BASE)
    for (*path, last), value in changes:
        section = content
        for part in path:
            inner = section.setdefault(part, {})
            if not isinstance(inner, dict):
                inner = section[part] = {}
            section = inner
        section[last] = copy.deepcopy(value)
    try:
        found = parse_config(content, "run.yaml")
    except InputError as error:
        said = str(error)
        assert said.startswith("found ")
        assert "run.yaml" in said
        # A setting that is none lists those that are.
        assert len(said) < 1500 * len(changes)
        assert "\n" not in said
    else:
        # What was read can be written, and is then the same.
        again = parse_config(yaml.safe_load(yaml.safe_dump(found.model_dump(mode="json"))), "run")
        assert again == found
