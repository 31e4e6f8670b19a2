"""Every number of a config is used or refused in one sentence, never the end of a program."""

import copy
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from flows.config.load import parse_config
from flows.config.run import RunConfig
from tintem_core.errors import InputError

BASE: dict[str, Any] = {
    "data": {"uri": "photos", "name": "photos"},
    "teacher": {"model": "test_vit"},
    "student": {"model": "test_resnet"},
}
ODD = (-1, 0, 1, 2.5, 10**30, 1e300, float("inf"), float("-inf"), float("nan"), "many", None, [1])


def numbers(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every field that is a number."""
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        inner = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if inner and not any(k is tuple or "tuple" in str(k) for k in kinds):
            yield from numbers(inner[0], (*path, name))
        elif "tuple" not in str(field.annotation) and (int in kinds or float in kinds):
            yield (*path, name)


PATHS = list(numbers(RunConfig))


def test_there_are_numbers_to_try() -> None:
    assert len(PATHS) > 50
    assert ("training", "learning_rate") in PATHS


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_an_odd_number_is_taken_or_refused_in_a_sentence(path: tuple[str, ...]) -> None:
    for value in ODD:
        settings = copy.deepcopy(BASE)
        section = settings
        for name in path[:-1]:
            section = section.setdefault(name, {"address": "local"} if name == "cluster" else {})
        section[path[-1]] = value
        try:
            config = parse_config(settings, "test")
        except InputError as error:
            assert len(str(error).splitlines()) == 1
            assert path[-1] in str(error)
        else:
            found: Any = config
            for name in path:
                found = getattr(found, name)
            assert found is None or abs(found) <= 1e30
