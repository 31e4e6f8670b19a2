"""Progress in Prefect moves, and a run does not end because nobody hears of it."""

import logging
import time
import uuid
from typing import Any

import httpx
import pytest
from prefect.context import SyncClientContext
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
    temporary_settings,
)

from flows.orchestration import reporter as prefect_reporting
from flows.orchestration.reporter import PrefectReporter, if_heard


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """What Prefect is told about progress: percent and description."""
    told: list[tuple[float, str]] = []
    known = uuid.uuid4()

    def create(percent: float, key: str, about: str) -> uuid.UUID:
        assert key == "train-vit-tiny"
        told.append((percent, about))
        return known

    def update(artifact: uuid.UUID, percent: float, about: str) -> None:
        assert artifact == known
        told.append((percent, about))

    monkeypatch.setattr(prefect_reporting, "create_progress_artifact", create)
    monkeypatch.setattr(prefect_reporting, "update_progress_artifact", update)
    monkeypatch.setattr(prefect_reporting, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(prefect_reporting, "_SECONDS_BETWEEN_UPDATES", 0.0)
    return told


def test_progress_moves_and_says_how_far_it_is(heard: list[tuple[float, str]]) -> None:
    with PrefectReporter().track("Train vit_tiny", 2000, "steps") as advance:
        advance(500, "loss 0.5")
        advance(500)
    assert [percent for percent, _ in heard] == [0, 25, 50, 50]
    assert [about.endswith("loss 0.5") for _, about in heard] == [False, True, True, True]
    assert heard[1][1].startswith("Train vit_tiny: 500 of 2,000 steps")


def test_what_fails_is_not_shown_as_finished(heard: list[tuple[float, str]]) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        PrefectReporter().track("Train vit_tiny", 10, "steps"),
    ):
        raise ZeroDivisionError
    assert [percent for percent, _ in heard] == [0]


def test_work_goes_on_while_prefect_is_away_and_is_shown_when_it_is_back(
    heard: list[tuple[float, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    create = prefect_reporting.create_progress_artifact

    def away(*_arguments: Any) -> None:
        raise httpx.ConnectError("connection refused")

    monkeypatch.setattr(prefect_reporting, "create_progress_artifact", away)
    with PrefectReporter().track("Train vit_tiny", 10, "steps") as advance:
        advance(1)
        assert heard == []
        monkeypatch.setattr(prefect_reporting, "create_progress_artifact", create)
        advance(4)
    assert [percent for percent, _ in heard] == [50, 50]
    with if_heard():
        away()
    with pytest.raises(ValueError), if_heard():
        raise ValueError


def test_work_does_not_wait_for_a_server_that_went_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_reporting, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(prefect_reporting, "_SECONDS_BETWEEN_UPDATES", 0.0)
    away = {
        # The port of "discard", where nobody listens.
        PREFECT_API_URL: "http://127.0.0.1:9/api",
        PREFECT_CLIENT_MAX_RETRIES: 7,
        PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False,
    }
    with temporary_settings(away), SyncClientContext.get_or_create() as context:
        # Only then does Prefect's client try again, after 2, 4, ... 128 s.
        context.client._client._has_connected = True
        started = time.monotonic()
        with PrefectReporter().track("Train vit_tiny", 10, "steps") as advance:
            advance(5)
        assert time.monotonic() - started < 60
