"""What a deploy that fails, or a hand on Prefect's page, leaves of the nights' schedule."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import pytest
import yaml
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

from flows.orchestration import deployments
from flows.orchestration.deployments import DeployError, deploy, schedule_nights
from tintem_core.errors import InputError

EVERY_NIGHT = CronSchedule(cron="30 4 * * *", timezone="Europe/Berlin")
CONFIG = {"config": {"root": "/data"}}


class Server:
    """What a Prefect server holds, as far as it is read and written here."""

    def __init__(self, *schedules: Any) -> None:
        self.night = DeploymentResponse(
            id=uuid4(), name="nightly", flow_id=uuid4(), parameters=CONFIG,
            schedules=[
                DeploymentSchedule(schedule=each, active=True, slug=f"every-night-{index}")
                for index, each in enumerate(schedules)
            ],
        )  # fmt: skip

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_deployments(self, **_: Any) -> list[DeploymentResponse]:
        return [self.night.model_copy()]

    def update_deployment(self, _: object, update: DeploymentUpdate) -> None:
        assert update.schedules is not None
        schedules = [
            known.model_copy(update={"schedule": wanted.schedule, "active": wanted.active})
            for known, wanted in zip(self.night.schedules, update.schedules, strict=True)
        ]
        changed = {"parameters": update.parameters, "schedules": schedules}
        self.night = self.night.model_copy(update=changed)

    def deploy_night(self) -> None:
        """Do what `prefect deploy` does to it: all is as in flows/orchestration/prefect.yaml."""
        known = self.night.schedules[0].model_copy(update={"active": False})
        self.night = self.night.model_copy(update={"parameters": {}, "schedules": [known]})

    def read_work_pool(self, _: str) -> None:
        pass

    def create_work_queue(self, *_: Any, **__: Any) -> None:
        pass

    def read_automations(self) -> list[Any]:
        return []


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    def serving(*schedules: Any) -> Server:
        server = Server(*schedules)
        monkeypatch.setattr(deployments, "get_client", lambda sync_client: server)
        return server

    return serving


def database_is_locked(*_: Any, **__: Any) -> Any:
    return subprocess.CompletedProcess([], 1, stdout="", stderr="database is locked")


def write_checkout(folder: Path) -> Path:
    """Write one whose deployments are not all on the server."""
    (folder / "flows" / "orchestration").mkdir(parents=True)
    described = {"deployments": [{"name": "nightly"}, {"name": "sweep"}], "automations": []}
    for name in ("prefect.yaml", "automations.yaml"):
        (folder / "flows" / "orchestration" / name).write_text(yaml.safe_dump(described))
    return folder


def interrupted(*_: Any, **__: Any) -> NoReturn:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("ending", "error"), [(database_is_locked, DeployError), (interrupted, KeyboardInterrupt)]
)
def test_nights_go_on_after_a_deploy_that_did_not_end(
    ending: Callable[..., Any], error: type[BaseException], serve: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    server, checkout = serve(EVERY_NIGHT), write_checkout(tmp_path)

    def prefect(*arguments: Any, **keywords: Any) -> Any:
        server.deploy_night()
        assert server.night.parameters == {}
        return ending(*arguments, **keywords)

    monkeypatch.setattr(subprocess, "run", prefect)
    with pytest.raises(error):
        deploy(checkout)
    assert server.night.parameters == CONFIG
    assert [(each.schedule, each.active) for each in server.night.schedules] == [
        (EVERY_NIGHT, True)
    ]


def test_the_checkout_of_whoever_deploys_is_not_that_of_every_worker(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve(EVERY_NIGHT)
    given: dict[str, str] = {}

    def prefect(*_: Any, env: dict[str, str], **__: Any) -> Any:
        given.update(env)
        return database_is_locked()

    monkeypatch.setattr(subprocess, "run", prefect)
    monkeypatch.setenv("TINTEM_HOME", "/opt/tintem")
    with pytest.raises(DeployError):
        deploy(write_checkout(tmp_path))
    assert "PATH" in given
    assert "TINTEM_HOME" not in given


def test_the_time_of_the_nights_is_kept_where_none_is_given(serve: Callable[..., Server]) -> None:
    server = serve(EVERY_NIGHT)
    assert schedule_nights(None) == EVERY_NIGHT
    assert not server.night.schedules[0].active
    assert server.night.parameters == CONFIG


@pytest.mark.parametrize(
    ("schedules", "message"),
    [
        ([], r"has 0 schedules on the Prefect server: leave one"),
        ([EVERY_NIGHT, EVERY_NIGHT], r"has 2 schedules on the Prefect server: leave one"),
        ([IntervalSchedule(interval=3600)], r"is no cron expression any more: make it one"),
    ],
)
def test_a_schedule_changed_on_prefects_page_is_one_sentence(
    schedules: list[Any], message: str, serve: Callable[..., Server]
) -> None:
    serve(*schedules)
    with pytest.raises(InputError, match=message):
        schedule_nights(CONFIG)
