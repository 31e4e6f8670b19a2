"""A finished student is in MLflow once and whole, and a run without the server is whole too."""

import importlib.util
import json
import os
import signal
import subprocess
import urllib.request
import venv
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from flows.config.load import parse_config
from flows.reporting.base import reporting_to
from flows.stages import export, tracking
from flows.stages.pipeline import Pipeline
from flows.stages.preflight import preflight
from flows.stages.results import Exported
from flows.stages.tracking import Point, Told, allowed, log_student, parameters
from storage.artifacts import read_file
from tests.runs import Notes
from tests.services import free_port, wait_until
from tintem_core.errors import InputError

TOLD = Told(
    export="small-0123",
    parameters={"data.name": "shapes", "training.epochs": "3"},
    points=(Point("student/test/knn", 0.5), Point("student/test/knn.low", 0.25)),
    tags={"tintem.export": "small-0123", "tintem.student": "small-4567"},
    files={"card.md": b"# A student\n"},
    began_ms=1_000,
    ended_ms=61_000,
)


def tracked(settings: dict[str, Any], address: str) -> tuple[Pipeline, Notes]:
    run, notes = {**settings, "tracking": {"mlflow": address}}, Notes()
    pipeline = Pipeline(parse_config(run, "test"))
    with reporting_to(notes):
        assert pipeline.exported
    return pipeline, notes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    """A real one without a server, as SQLAlchemy is there for Prefect."""
    folder = tmp_path_factory.mktemp("mlflow")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    client.create_experiment("shapes", str(folder / "artifacts"))
    return client


def runs(client: MlflowClient, experiment: str, export: str) -> list[Run]:
    id = client.get_experiment_by_name(experiment).experiment_id
    return list(client.search_runs([id], f"tags.`tintem.export` = '{export}'"))


def test_a_student_is_logged_once(store: MlflowClient) -> None:
    place = log_student(store, "shapes", TOLD)
    late = replace(TOLD, points=(Point("late", 1.0),), files={"late.md": b""})
    assert log_student(store, "shapes", late) == place
    (run,) = runs(store, "shapes", TOLD.export)
    assert place == f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert (run.info.status, run.info.run_name) == ("FINISHED", TOLD.export)
    assert (run.info.start_time, run.info.end_time) == (1_000, 61_000)
    assert run.data.params == TOLD.parameters
    assert run.data.metrics == {point.name: point.value for point in TOLD.points}
    assert TOLD.tags.items() <= run.data.tags.items()
    assert [file.path for file in store.list_artifacts(run.info.run_id)] == ["card.md"]


def test_a_run_that_was_cut_off_is_completed_and_nothing_is_in_it_twice(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = tuple(Point("training/loss", 1 / epoch, epoch) for epoch in range(1, 2_501))
    long = replace(
        TOLD,
        export="long-0123",
        tags={"tintem.export": "long-0123"},
        points=(*TOLD.points, *curve),
        parameters={**TOLD.parameters, "long": "x" * 7_000},
    )

    def cut_off(self: MlflowClient, run_id: str, folder: str) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifacts", cut_off)
        with pytest.raises(ConnectionError):
            log_student(store, "shapes", long)
    (run,) = runs(store, "shapes", long.export)
    assert run.info.status == "RUNNING"

    # What does not count for the id of an export may be another by now.
    log_student(store, "shapes", replace(long, parameters={**long.parameters, "data.name": "s"}))
    (run,) = runs(store, "shapes", long.export)
    assert run.info.status == "FINISHED"
    assert run.data.params == {**TOLD.parameters, "long": "x" * 6_000}
    found = store.get_metric_history(run.info.run_id, "training/loss")
    assert [(each.step, each.value) for each in found] == [(p.epoch, p.value) for p in curve]
    assert [file.path for file in store.list_artifacts(run.info.run_id)] == ["card.md"]


def test_every_setting_of_a_student_is_a_parameter_under_its_dotted_name(
    settings: dict[str, Any],
) -> None:
    settings["evaluation"]["ood"] = [{"name": "strange", "uri": "s3://photos/strange"}]
    settings["student"]["options"] = {"drop_rate": 0.1, "odd,key": "kept"}
    settings["sweep"] = {"seeds": [0, 1]}
    settings["tracking"] = {"mlflow": "http://127.0.0.1:9"}
    found = parameters(parse_config(settings, "test"))
    assert found["data.name"] == "shapes"
    assert found["training.epochs"] == "3"
    assert found["student.weights"] == "null"
    assert found["student.options.drop_rate"] == "0.1"
    assert found["student.options.odd_key"] == "kept"
    assert found["evaluation.ood.0.uri"] == "s3://photos/strange"
    assert found["export.formats"] == '["onnx"]'
    assert found["other_teachers"] == "[]"
    assert not [name for name in found if name.split(".")[0] in ("sweep", "nightly", "tracking")]


def test_names_are_such_as_mlflow_takes() -> None:
    assert allowed("student against a:b/test/knn@5.low") == "student against a_b/test/knn_5.low"
    assert allowed("n" * 300) == "n" * 250


def test_a_missing_client_is_known_before_any_work(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["tracking"] = {"mlflow": "http://127.0.0.1:9"}
    config, find = parse_config(settings, "test"), importlib.util.find_spec
    monkeypatch.setattr(
        tracking, "find_spec", lambda name: None if name == "mlflow" else find(name)
    )
    with pytest.raises(InputError, match=r"pip install 'tintem\[mlflow\]'"):
        preflight(config)
    with pytest.raises(InputError, match=r"pip install 'tintem\[mlflow\]'"):
        assert Pipeline(config).exported
    assert not Path(config.root).exists()


def test_without_the_server_a_run_ends_whole_and_says_so(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    settings["tracking"] = {"mlflow": address}
    pipeline, notes = Pipeline(parse_config(settings, "test")), Notes()
    whole = Exported(id=TOLD.export, record={}, reused=True, location="")
    finished = SimpleNamespace(config=pipeline.config, root=pipeline.root)
    monkeypatch.setattr(Pipeline, "finished", finished)
    monkeypatch.setattr(export, "export", lambda run: whole)
    monkeypatch.setattr(tracking, "tell", lambda run, exported: TOLD)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = dict(os.environ)
    with reporting_to(notes):
        assert pipeline.exported is whole
    (said,) = notes.notes
    assert said.startswith(f"the student is not logged in MLflow at {address} ([Errno 111] ")
    assert dict(os.environ) == before


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's own, in an environment of its own, with a database and a folder."""
    folder = tmp_path_factory.mktemp("server")
    venv.create(folder / "venv", with_pip=True)
    wanted = f"mlflow=={version('mlflow-skinny')}"
    pip = [folder / "venv" / "bin" / "pip", "--quiet", "install", wanted]
    subprocess.run(pip, check=True, timeout=600)
    port = free_port()
    process = subprocess.Popen(
        [
            folder / "venv" / "bin" / "mlflow", "server", "--host", "127.0.0.1",
            "--port", str(port), "--workers", "1", "--serve-artifacts",
            "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
            "--artifacts-destination", folder / "artifacts",
        ],
        cwd=folder, start_new_session=True,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true",
             "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        assert process.poll() is None
        try:
            return read(f"{address}/health") == b"OK"
        except OSError:
            return False

    try:
        wait_until(is_up, 240)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def read(url: str, asked: Any = None) -> bytes:
    data = None if asked is None else json.dumps(asked).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: bytes = answer.read()
        return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_real_server_has_the_student_of_a_bucket(
    server: str, settings: dict[str, Any], s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["root"] = s3_url
    settings["training"] |= {"select": "best", "validation_share": 0.3, "validate_every": 2}

    def cut_off(self: MlflowClient, run_id: str, folder: str) -> None:
        raise MlflowException("the network\nis down")

    plain = Pipeline(parse_config(settings, "test")).exported
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifacts", cut_off)
        cut, notes = tracked(settings, server)
    assert cut.exported.reused
    assert cut.exported.id == plain.id
    assert f"the student is not logged in MLflow at {server} (the network is down)" in str(
        notes.notes
    )
    pipeline, notes = tracked(settings, server)
    _, said = tracked(settings, server)
    assert notes.notes[-1] == said.notes[-1]
    assert notes.notes[-1].startswith(f"in MLflow: {server}/#/experiments/")

    api, whole = f"{server}/api/2.0/mlflow", pipeline.exported
    found = json.loads(read(f"{api}/experiments/get-by-name?experiment_name=shapes"))
    asked = {"experiment_ids": [found["experiment"]["experiment_id"]]}
    (run,) = json.loads(read(f"{api}/runs/search", asked))["runs"]
    assert notes.notes[-1].endswith(run["info"]["run_id"])
    assert run["info"]["status"] == "FINISHED"
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert tags["tintem.export"] == whole.id
    assert tags["tintem.location"] == f"{s3_url}/exports/{whole.id}"
    assert tags["tintem.student"] == pipeline.trained.id
    assert tags["tintem.cache"] == pipeline.extracted.training_cache
    assert tags["version.torch"] == version("torch")
    given = {each["key"]: each["value"] for each in run["data"]["params"]}
    assert given == parameters(pipeline.config)

    metrics = {each["key"]: each["value"] for each in run["data"]["metrics"]}
    for row in pipeline.evaluated.record["rows"]:
        name = f"{row['subject']}/{row['dataset']}/{row['name']}"
        assert metrics[name] == pytest.approx(row["value"], rel=1e-12)
        assert metrics[f"{name}.low"] == pytest.approx(row["low"], rel=1e-12)
        assert metrics[f"{name}.high"] == pytest.approx(row["high"], rel=1e-12)
    assert metrics["export/bytes"] == whole.record["model"]["bytes"]

    id = run["info"]["run_id"]
    (validation,) = (name for name in metrics if name.startswith("validation/"))
    for name, epochs in (("training/loss", [1, 2, 3]), (validation, [2, 3])):
        path = f"metrics/get-history?run_id={id}&metric_key={urllib.request.quote(name)}"
        history = json.loads(read(f"{api}/{path}"))["metrics"]
        assert [each["step"] for each in history] == epochs
    for name in ("card.md", "report.html", "student.onnx", "record.json"):
        data = read(f"{server}/get-artifact?run_uuid={id}&path={name}")
        assert data == read_file(pipeline.root, "exports", whole.id, name)
