"""A night that fails for what may pass is tried again, wherever in the night it failed."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.client.schemas.objects import State
from prefect.logging import disable_run_logger

from flows.config.load import parse_config
from flows.config.run import RunConfig
from flows.failures import may_pass
from flows.nightly import nightly
from flows.retraining.run import RetrainingResult, RetrainingRun
from storage.errors import LatestChangedError, StorageInputError, UnreachableError
from tests.flows.config.test_retraining import BASE
from tintem_core.errors import InputError, TintemError

AWAY = UnreachableError("s3://away cannot be reached")
MISTAKE = InputError("student.weights: there is no file")


@pytest.fixture
def raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Exception]]:
    """Let a night end with failures; return what comes to where Prefect is told to try again."""
    config: RunConfig = parse_config({**BASE, "root": str(tmp_path / "root")}, "run.yaml")
    seen: list[Exception] = []

    @contextlib.contextmanager
    def watched() -> Iterator[None]:
        try:
            yield
        except Exception as error:
            seen.append(error)
            raise

    def hold(*failures: Exception) -> list[Exception]:
        ended = RetrainingResult("failed", "small failed", "night-1", None, failures)
        monkeypatch.setattr(RetrainingRun, "run", lambda _: ended)
        monkeypatch.setattr("flows.nightly.with_retries", watched)
        with disable_run_logger(), contextlib.suppress(TintemError, ValueError):
            nightly.fn(config)
        return seen

    return hold


@pytest.mark.parametrize("failures", [(AWAY,), (MISTAKE, AWAY), (LatestChangedError("x"), AWAY)])
def test_a_store_that_was_away_for_one_student_is_waited_for(
    raised: Callable[..., list[Exception]], failures: tuple[Exception, ...]
) -> None:
    (error,) = raised(*failures)
    assert may_pass(error)
    assert error.__cause__ is AWAY
    assert "s3://away cannot be reached" in str(error)


@pytest.mark.parametrize(
    ("failures", "kind"),
    [
        ((MISTAKE, StorageInputError("its file is missing")), InputError),
        ((LatestChangedError("changed meanwhile"),), TintemError),
        ((AWAY, ValueError("a bug")), ValueError),
    ],
)
def test_what_cannot_pass_is_not_waited_for(
    raised: Callable[..., list[Exception]], failures: tuple[Exception, ...], kind: type[Exception]
) -> None:
    (error,) = raised(*failures)
    assert type(error) is kind
    assert not may_pass(error)


def test_a_night_without_failures_raises_nothing(raised: Callable[..., list[Exception]]) -> None:
    assert raised() == []


@pytest.mark.parametrize(("attempt", "is_named"), [(1, True), (2, False)])
def test_a_later_attempt_returns_no_state_for_which_prefect_would_raise_the_earlier_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempt: int, is_named: bool
) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", str(attempt))
    monkeypatch.setattr(
        RetrainingRun, "run", lambda _: RetrainingResult("nothing new", "nothing new")
    )
    config = parse_config({**BASE, "root": str(tmp_path / "root")}, "run.yaml")
    with disable_run_logger():
        ended = nightly.fn(config)
    assert isinstance(ended, State) is is_named
    assert is_named or ended["outcome"] == "nothing new"
