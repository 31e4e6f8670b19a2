"""Ten kills and some signals over commands that end in half a minute; `make torture` kills 100."""

import os
import random
from pathlib import Path

import pytest

from tests.system.torture import Torturer
from tests.system.torture_state import differences, state_of
from tests.system.torture_subjects import SUBJECTS

_SEED = random.SystemRandom().randrange(10**6)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("command", "kills"), [("embed", 3), ("run", 2), ("nightly", 2)])
def test_killed_at_random_instants_everything_ends_as_undisturbed(
    command: str, kills: int, tmp_path: Path
) -> None:
    print(f"python -m tests.system.torture --kills {kills} --seed {_SEED} --only {command}")
    tally = Torturer(tmp_path, _SEED).torture(SUBJECTS[command], kills)
    assert tally.rounds
    assert tally.kills >= kills


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("command", "kinds", "last"), [("run", 60, "report.html"), ("embed", 5, "#.parquet")]
)
def test_killed_before_every_change_of_a_file_everything_ends_as_undisturbed(
    command: str, kinds: int, last: str, tmp_path: Path
) -> None:
    environment = dict(os.environ)
    torturer = Torturer(tmp_path, _SEED, preloaded=True)
    try:
        died = torturer.die_before_every_change(SUBJECTS[command])
    finally:
        torturer.close()
    assert dict(os.environ) == environment
    assert len(died) >= kinds
    assert died[-1].endswith(last)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_service_answers_as_before(tmp_path: Path) -> None:
    print(f"python -m tests.system.torture --kills 3 --seed {_SEED} --only serve")
    assert Torturer(tmp_path, _SEED).torture_service(3).kills == 3


def test_what_is_compared_shows_a_byte_a_file_and_a_number_but_no_date(tmp_path: Path) -> None:
    record = tmp_path / "students" / "a" / "record.json"
    record.parent.mkdir(parents=True)

    def told(content: str) -> list[str]:
        record.write_text(content)
        return differences(before, state_of(tmp_path))

    record.write_text('{"created": "2026-11-29", "loss": 0.5, "files": {"report.html": {}}}')
    (tmp_path / "weights").write_bytes(b"0")
    before = state_of(tmp_path)
    assert told('{"created": "2026-11-30", "loss": 0.5, "files": {"report.html": {"b": 1}}}') == []
    (changed,) = told('{"created": "2026-11-29", "loss": 0.6, "files": {}}')
    assert changed.startswith("differs: students/a/record.json")
    (tmp_path / "weights").write_bytes(b"1")
    (tmp_path / "more").write_bytes(b"")
    record.unlink()
    found = [line.split(": ")[:2] for line in differences(before, state_of(tmp_path))]
    assert found == [
        ["differs", "weights"], ["missing", "students/a/record.json"], ["too much", "more"],
    ]  # fmt: skip
