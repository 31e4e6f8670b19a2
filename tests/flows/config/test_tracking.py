"""The address of an MLflow server, as a config gives it."""

from typing import Any

import pytest

from flows.config.load import parse_config
from tintem_core.errors import InputError

BASE: dict[str, Any] = {
    "data": {"uri": "photos", "name": "photos"},
    "teacher": {"model": "test_vit"},
    "student": {"model": "test_resnet"},
}


def address(given: str) -> str | None:
    return parse_config({**BASE, "tracking": {"mlflow": given}}, "test").tracking.mlflow


def test_nothing_is_tracked_by_default() -> None:
    assert parse_config(BASE, "test").tracking.mlflow is None


@pytest.mark.parametrize("given", ["http://127.0.0.1:5000", "https://some.where/mlflow"])
def test_an_address_is_taken_with_and_without_a_slash_at_its_end(given: str) -> None:
    assert address(given) == address(f"{given}/") == given


@pytest.mark.parametrize("given", ["mlruns", "sqlite:///m.db", "http:", "http://", "http://[::1"])
def test_what_is_no_address_of_a_server_is_refused(given: str) -> None:
    with pytest.raises(InputError, match=r"'tracking\.mlflow' is .* address"):
        address(given)


@pytest.mark.parametrize("who", ["me:hidden", "hidden"])
def test_a_password_in_an_address_is_refused_and_not_repeated(who: str) -> None:
    with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        address(f"https://{who}@some.where")
    assert "hidden" not in str(refused.value)
