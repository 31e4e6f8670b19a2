"""What a machine lacks is told with what to do, and nothing stays of having looked."""

import json
from collections import namedtuple
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from flows.cli.commands import app
from flows.planning import disk, doctor
from flows.planning.doctor import clock, examine
from storage.root import open_root


@pytest.fixture(autouse=True)
def _small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_PIECE", 2**20)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def found(place: str, name: str) -> doctor.Finding:
    return next(each for each in examine(open_root(place)) if each.name == name)


def test_a_machine_that_can_run_tintem_is_not_found_bad(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["doctor", str(tmp_path / "root"), "--json"])
    findings = {each["name"]: each for each in json.loads(told.output)}
    assert set(findings) == {
        "packages", "torch", "GPU", "memory", "/dev/shm", "root", "Prefect"
    }  # fmt: skip
    assert told.exit_code == 0
    assert all(each["state"] in ("good", "poor") for each in findings.values())
    assert all(each["cure"] for each in findings.values() if each["state"] == "poor")
    assert "runs a model" in findings["torch"]["says"]
    assert list(tmp_path.iterdir()) == []


def test_what_is_scarce_is_poor_and_has_a_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(2**30, 2**29, 2**29))
    memory = SimpleNamespace(available=2**30, total=2**31)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: memory)
    cures = {"memory": "memory_gb", "/dev/shm": "--shm-size 2g", "root": "another disk"}
    for name, cure in cures.items():
        each = found(str(tmp_path), name)
        assert each.state == "poor"
        assert cure in each.cure


def test_what_is_missing_or_broken_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PACKAGES", ("torch", "nothing-of-that-name"))
    assert found(str(tmp_path), "packages").cure == "pip install nothing-of-that-name"

    def fails(name: str) -> None:
        raise RuntimeError(f"operator torchvision::nms does not exist\n{name}")

    monkeypatch.setattr(doctor.importlib, "import_module", fails)
    (_, torch, *_) = (each for _, each in zip(range(2), examine(open_root(tmp_path)), strict=False))
    assert torch.state == "bad"
    assert torch.says.endswith("operator torchvision::nms does not exist")


def test_a_root_that_cannot_be_written_is_bad_and_ends_with_1() -> None:
    told = CliRunner().invoke(app, ["doctor", "/proc/nowhere"])
    assert told.exit_code == 1
    assert "cannot be written" in told.output


def test_a_bucket_is_looked_at_as_a_disk_is(s3_url: str) -> None:
    each = found(s3_url, "root")
    assert each.says.startswith(f"{s3_url}: writes ")
    assert open_root(s3_url).list() == []
    assert found(s3_url.replace("s3://", "s3://no-such-bucket-"), "root").state == "bad"


@pytest.mark.parametrize(
    ("apart", "state"), [(0, "good"), (59, "good"), (300, "bad"), (-90, "bad")]
)
def test_a_clock_that_is_wrong_is_bad(apart: int, state: str) -> None:
    now = 1_800_000_000
    each = clock("the server", formatdate(now - apart, usegmt=True), now)
    assert each.state == state
    if state == "bad":
        assert f"{abs(apart)} s {'ahead of' if apart > 0 else 'behind'} the server" in each.says
