"""A finished student in MLflow: its parameters, metrics with intervals, curves and export.

One MLflow run per export, found again by its tag. The run is finished once everything is in it: one
that was cut off is completed, and a finished one stays as it is. The client is imported where an
address is given alone: it takes seconds.
"""

import contextlib
import json
import logging
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.config.run import RunConfig
from flows.reporting.base import reporter
from flows.reporting.measures import label_of
from flows.stages.ensure import exclusive
from flows.stages.models import load_history
from flows.stages.results import REPORT, Exported, Finished
from storage.artifacts import read_file
from tintem_core.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "tintem.export"
_OF_OTHER_RUNS = {"tracking", "sweep", "nightly"}
_LONGEST_NAME = 250
_FINISHED = "FINISHED"
_SETTINGS = {
    # Of itself it tries for four minutes; what is missing is logged by the next run.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    # It would tell its makers of every call.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True)
class Point:
    """A number of a student; of a curve, at an epoch."""

    name: str
    value: float
    epoch: int = 0


@dataclass(frozen=True)
class Told:
    """All that MLflow is told of a student."""

    export: str
    parameters: Mapping[str, str]
    points: tuple[Point, ...]
    tags: Mapping[str, str]
    files: Mapping[str, bytes]
    began_ms: int
    """When the training began, in milliseconds since 1970; of a killed one, when it was resumed."""
    ended_ms: int
    """When it ended."""


def require_mlflow(config: RunConfig) -> None:
    """Make sure that what ``tracking.mlflow`` asks for can be sent.

    Raises:
        InputError: if the client is missing.
    """
    if config.tracking.mlflow is not None and find_spec("mlflow") is None:
        raise InputError(
            "tracking.mlflow needs the package mlflow-skinny, which is not installed: pip install "
            "'tintem[mlflow]', or set tracking.mlflow to null."
        )


def track(run: Finished, exported: Exported) -> None:
    """Make sure that a finished student is in MLflow, where the config names a server.

    The run goes on without a server that does not answer, or refuses: a note says so.

    Raises:
        InputError: see :func:`require_mlflow`.
    """
    require_mlflow(run.config)
    address = run.config.tracking.mlflow
    if address is None:
        return
    told = tell(run, exported)
    experiment = run.config.tracking.experiment or run.config.data.name
    # Others of this root would make the same experiment, or the same run.
    with exclusive(run.root, "tracking/mlflow"), _settings():
        try:
            from mlflow import MlflowClient

            place = log_student(MlflowClient(address), experiment, told)
        except Exception as error:  # noqa: BLE001  # whatever its stores raise, the export is whole
            reporter().note(
                f"the student is not logged in MLflow at {address} ({_reason(error)}); its export "
                "is whole, and the next `tintem run` logs what is missing"
            )
        else:
            reporter().note(f"in MLflow: {address}/#/{place}")


def tell(run: Finished, exported: Exported) -> Told:
    """Read what MLflow is told of a finished student."""
    config, root, record = run.config, run.root, exported.record
    training = run.trained.record
    ended = datetime.fromisoformat(training["provenance"]["created"]).timestamp()
    caches = [run.extracted.training_cache, *(o.training_cache for o in run.extracted.others)]
    versions = {**record["provenance"]["packages"], "python": record["provenance"]["python"]}
    names = ("card.md", REPORT, record["model"]["file"], "record.json")
    return Told(
        export=exported.id,
        parameters=parameters(config),
        points=(*_measured(run, exported), *_curves(run)),
        tags={
            TAG: exported.id,
            "tintem.location": exported.location,
            "tintem.student": run.trained.id,
            "tintem.evaluation": run.evaluated.id,
            "tintem.mapping": run.mapped.id,
            "tintem.cache": ", ".join(caches),
            **{f"version.{name}": found for name, found in versions.items() if found},
        },
        files={name: read_file(root, "exports", exported.id, name) for name in names},
        began_ms=round((ended - training["seconds"]) * 1000),
        ended_ms=round(ended * 1000),
    )


def parameters(config: RunConfig) -> dict[str, str]:
    """Return every setting of a run by its dotted name, as text; values are JSON but for text."""
    return dict(_flat("", config.model_dump(mode="json", exclude=_OF_OTHER_RUNS)))


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        value = {str(place): each for place, each in enumerate(value)}
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}".lstrip("."), inner)
    else:
        yield allowed(name), value if isinstance(value, str) else json.dumps(value)


def allowed(name: str) -> str:
    """Return a name as MLflow takes it: other characters are underscores, and 250 of them kept."""
    return re.sub(r"[^\w./ -]", "_", name)[:_LONGEST_NAME]


def _measured(run: Finished, exported: Exported) -> Iterator[Point]:
    for row in run.evaluated.record["rows"]:
        name = label_of(row)
        yield from _point(name, row["value"])
        yield from _point(f"{name}.low", row["low"])
        yield from _point(f"{name}.high", row["high"])
    record = exported.record
    yield from _point("export/parameters", run.trained.record["parameters"])
    yield from _point("export/bytes", record["model"]["bytes"])
    yield from _point("export/smallest_cosine", record["verification"]["smallest_cosine"])
    for name, value in record["latency_ms"].items():
        yield from _point(f"export/latency_ms/{name}", value)


def _curves(run: Finished) -> Iterator[Point]:
    selected = run.trained.record.get("selected", {})
    names = {"validation": f"validation/{selected.get('by')}"}
    for row in load_history(run.root, run.trained).iter_rows(named=True):
        epoch = row.pop("epoch")
        for column, value in row.items():
            yield from _point(names.get(column, f"training/{column}"), value, epoch)


def _point(name: str, value: float | None, epoch: int = 0) -> Iterator[Point]:
    """Yield a number where there is one: a validation is not of every epoch."""
    if value is not None and math.isfinite(value):
        yield Point(allowed(name), value, epoch)


def log_student(client: "MlflowClient", experiment: str, told: Told) -> str:
    """Log what MLflow has not yet of a student.

    Args:
        client: of the server.
        experiment: its name; it is made where there is none.
        told: what to log.

    Returns:
        Where MLflow's page shows the run, behind its address and ``/#/``.

    Raises:
        MlflowException: if the server is away, or refuses.
    """
    from mlflow.entities import Metric, Param

    known = client.get_experiment_by_name(experiment)
    id = client.create_experiment(experiment) if known is None else known.experiment_id
    found = client.search_runs([id], f"tags.`{TAG}` = '{told.export}'")
    run = found[0] if found else client.create_run(
        id, start_time=told.began_ms, tags=dict(told.tags), run_name=told.export
    )  # fmt: skip
    if run.info.status != _FINISHED:
        # A parameter cannot be set twice; of a number, the same again is one.
        client.log_batch(
            run.info.run_id,
            [Metric(p.name, p.value, told.ended_ms, p.epoch) for p in told.points],
            [Param(*each) for each in told.parameters.items() if each[0] not in run.data.params],
        )
        with tempfile.TemporaryDirectory() as folder:
            for name, data in told.files.items():
                Path(folder, name).write_bytes(data)
            client.log_artifacts(run.info.run_id, folder)
        client.set_terminated(run.info.run_id, _FINISHED, told.ended_ms)
    return f"experiments/{id}/runs/{run.info.run_id}"


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """Set what MLflow's client reads from the environment, where the user has not."""
    new = {name: value for name, value in _SETTINGS.items() if name not in os.environ}
    # It warns of every try; what comes of them all is said once.
    tries = logging.getLogger("urllib3.connectionpool")
    level = tries.level
    os.environ.update(new)
    tries.setLevel(logging.ERROR)
    try:
        yield
    finally:
        tries.setLevel(level)
        for name in new:
            os.environ.pop(name, None)


def _reason(error: BaseException) -> str:
    """Return what caused an error in the end, on a line."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return " ".join((str(error) or type(error).__name__).split())[:200]
