"""What prefect.yaml describes, on a Prefect server: pool, queue, automations, flows."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleUpdate,
    DeploymentUpdate,
    WorkPoolCreate,
)
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.variables import Variable
from prefect.workers.process import ProcessWorker
from pydantic import ValidationError

from flows.orchestration.services import POOL, QUEUE
from tintem_core.errors import InputError, TintemError

INSTALLED = Path(__file__).resolve().parents[2]
"""Where the code lies, in a checkout or among installed packages: runs start there."""
_DESCRIBED = Path("flows/orchestration")
_FILE, _AUTOMATIONS = _DESCRIBED / "prefect.yaml", _DESCRIBED / "automations.yaml"
_DEPLOYED, _TAG = "tintem_deployed", "tintem"


class DeployError(TintemError):
    """The deployments were refused; the message holds what Prefect said."""


def deploy(installed: Path = INSTALLED) -> bool:
    """Make sure that the server has everything, and in this version; False if it had.

    A schedule that was given a config keeps it, and goes on.

    Args:
        installed: the folder that the packages lie in.

    Raises:
        DeployError: if Prefect refuses.
    """
    version = _version(installed)
    with get_client(sync_client=True) as client:
        before = _deployed(client)
        wanted = {d["name"] for d in _read(installed / _FILE)["deployments"]}
        if wanted <= before.keys() and Variable.get(_DEPLOYED) == version:
            return False
        _ensure_pool(client)
        _ensure_automations(client, installed)
        try:
            _deploy_all(installed)
        finally:
            # What was deployed before a failure or Ctrl-C has lost its config, and the next call
            # could not know it any more. A SIGKILL in between does lose it.
            for deployment in before.values():
                if deployment.parameters:
                    _restore(client, deployment)
    Variable.set(_DEPLOYED, version, overwrite=True)
    return True


def schedule_nights(
    parameters: dict[str, Any] | None, cron: str | None = None, timezone: str | None = None
) -> CronSchedule:
    """Let nights begin by themselves; without parameters: let no more night begin.

    Args:
        parameters: of every night.
        cron, timezone: when nights begin; None: as before.

    Returns:
        When they begin.

    Raises:
        InputError: if there is no deployment for nights, or no such time.
    """
    if timezone is not None and timezone not in available_timezones():
        raise InputError(f"there is no time zone '{timezone}'; Europe/Berlin is one.")
    with get_client(sync_client=True) as client:
        night = _deployed(client).get("nightly")
        if night is None:
            raise InputError("the Prefect server has no deployment nightly: `tintem up` makes it.")
        known, before = _only_schedule(night)
        try:
            when = CronSchedule(cron=cron or before.cron, timezone=timezone or before.timezone)
        except ValidationError as error:
            raise InputError(f"'{cron}' is no cron expression; '0 2 * * *' is one.") from error
        known = known.model_copy(update={"schedule": when, "active": parameters is not None})
        changed = {"schedules": [known], "parameters": parameters or night.parameters}
        _restore(client, night.model_copy(update=changed))
    return when


def _only_schedule(night: DeploymentResponse) -> tuple[DeploymentSchedule, CronSchedule]:
    """Return the schedule that nights are deployed with, which Prefect's page can change."""
    if len(night.schedules) != 1:
        raise InputError(
            f"nightly/nightly has {len(night.schedules)} schedules on the Prefect server: leave "
            f"one there, or delete the deployment and let `tintem up` make it anew."
        )
    (known,) = night.schedules
    if not isinstance(known.schedule, CronSchedule):
        raise InputError(
            "the schedule of nightly/nightly on the Prefect server is no cron expression any "
            "more: make it one there, or delete the deployment and let `tintem up` make it anew."
        )
    return known, known.schedule


def _ensure_pool(client: SyncPrefectClient) -> None:
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        pool = WorkPoolCreate(name=POOL, type="process", base_job_template=template)
        client.create_work_pool(pool)
    try:
        client.create_work_queue(QUEUE, concurrency_limit=1, work_pool_name=POOL)
    except ObjectAlreadyExists:
        # Its limit is the user's.
        return


def _ensure_automations(client: SyncPrefectClient, installed: Path) -> None:
    known = {automation.name: automation for automation in client.read_automations()}
    for content in _read(installed / _AUTOMATIONS)["automations"]:
        wanted = AutomationCore.model_validate(content)
        found = known.get(wanted.name)
        if found is None:
            client.create_automation(wanted)
        else:
            # Whether it is switched on is the user's.
            wanted = wanted.model_copy(update={"enabled": found.enabled})
            # One that is written again forgets whom it is waiting for.
            if wanted.model_dump() != found.model_dump(exclude={"id"}):
                client.update_automation(found.id, wanted)


def _deployed(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[_TAG]))
    return {found.name: found for found in client.read_deployments(deployment_filter=ours)}


def _deploy_all(installed: Path) -> None:
    command = ["--no-prompt", "deploy", "--prefect-file", str(_FILE), "--all"]
    # Every worker has one of its own; Prefect would write this one into the deployments.
    environment = {name: value for name, value in os.environ.items() if name != "TINTEM_HOME"}
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *command], env=environment,
        cwd=installed, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        raise DeployError(f"`prefect {' '.join(command)}` failed:\n{done.stdout}{done.stderr}")


def _restore(client: SyncPrefectClient, deployment: DeploymentResponse) -> None:
    """Set the parameters and schedules of a deployment to those given."""
    schedules = [
        DeploymentScheduleUpdate(schedule=each.schedule, active=each.active, slug=each.slug)
        for each in deployment.schedules
    ]
    update = DeploymentUpdate(parameters=deployment.parameters, schedules=schedules)
    client.update_deployment(deployment.id, update)


def _version(installed: Path) -> str:
    """Return a digest of all that deployments are made from, the form of their config included."""
    digest = hashlib.sha256()
    for package in ("flows", "storage", "tintem_core", "tintem_pixels"):
        for path in sorted((installed / package).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))
