"""Extractions, readers, nights and trainings on one root at the same time, some of them killed."""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from flows.config.load import load_config
from flows.retraining.run import RetrainingRun
from flows.stages.pipeline import Pipeline
from storage.cache import FeatureCache
from storage.claim import parse_claim
from storage.holders import holders
from storage.root import Root, open_root
from tests.photos import photo
from tests.runs import small_run, write_config
from tests.system.at_once import REFERENCE, SAID, STOP

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROLES = ("extract", "extract", "read", "read", "night", "train")
SECONDS = float(os.environ.get("TINTEM_AT_ONCE_SECONDS", "90"))
FIRST, ALL = 24, 96
_KILL_EVERY = 12.0


def _add(folder: Path, number: int) -> None:
    path = folder / ("disc", "plain")[number % 2] / f"photo-{number:04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    photo(number).save(part, "PNG")
    part.replace(path)


def _reference(folder: Path, settings: dict[str, Any]) -> None:
    """Embed every photo that there will be, undisturbed, in a root of its own."""
    photos = folder / "all"
    for number in range(ALL):
        _add(photos, number)
    changed = {**settings, "root": str(folder / "undisturbed")}
    changed["data"] = {**settings["data"], "uri": str(photos)}
    run = Pipeline(load_config(write_config(folder, changed, "undisturbed.yaml")))
    extracted, known, stored = run.extracted, run.indexed.data.keys(), {}
    for cache_id in (extracted.training_cache, extracted.evaluation_caches["shapes"]):
        cache = FeatureCache.open(run.root, cache_id)
        gone = set(cache.missing(known))
        keys = [key for key in known if key not in gone]
        reader = cache.reader(keys)
        stored[cache_id] = np.stack([reader.all(view) for view in range(cache.spec.views)])
        stored[f"{cache_id}/keys"] = np.array(keys)
    np.savez(folder / REFERENCE, allow_pickle=False, **stored)


class Workers:
    """One process per role; whichever ends is started again."""

    def __init__(self, config: Path, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._running = [(role, self._start(role)) for role in ROLES]
        self.kills: Counter[str] = Counter()

    def _start(self, role: str) -> psutil.Popen:
        arguments = [role, str(self._config), str(self._folder)]
        with (self._folder / f"{role}.log").open("ab") as log:
            return psutil.Popen(
                [sys.executable, "-m", "tests.system.at_once", *arguments],
                env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log,
            )  # fmt: skip

    def check(self) -> None:
        """Nobody may have ended by himself."""
        for role, process in self._running:
            if process.poll() is not None:
                pytest.fail(f"{role}: {(self._folder / f'{role}.log').read_text()[-3000:]}")

    def kill_one(self, root: Root) -> None:
        """Kill one, one that holds something if there is one: whoever needs it takes over."""
        mine = [process.pid for role, process in self._running if role != "read"]
        holding = [pid for pid in _pids_that_hold(root) if pid in mine]
        pid = random.choice(holding or mine)
        place = next(i for i, (_, process) in enumerate(self._running) if process.pid == pid)
        role, process = self._running[place]
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.kills[f"{role}, holding" if holding else role] += 1
        self._running[place] = (role, self._start(role))

    def end(self) -> None:
        """Wait until each has ended what it does."""
        (self._folder / STOP).touch()
        for role, process in self._running:
            assert process.wait(timeout=300) == 0, (self._folder / f"{role}.log").read_text()

    def kill(self) -> None:
        for _, process in self._running:
            if process.poll() is None:
                process.kill()
                process.wait()


def _pids_that_hold(root: Root) -> list[int]:
    claims = {path.rsplit(".", 2)[0]: path for path in sorted(root.list("leases")) if
              path.endswith(".json")}  # fmt: skip
    return [
        holder.pid
        for path in claims.values()
        if root.exists(path) and (holder := parse_claim(root.read(path))) is not None
    ]


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    photos = tmp_path / "photos"
    for number in range(FIRST):
        _add(photos, number)
    settings = small_run(tmp_path, photos) | {"nightly": {"gates": []}}
    config = write_config(tmp_path, settings)
    _reference(tmp_path, settings)
    found = Workers(config, tmp_path)
    yield found
    found.kill()


def _rounds(folder: Path) -> Counter[str]:
    """How often each role has come to an end; of readers, how many rows were compared."""
    rounds: Counter[str] = Counter()
    for path in (folder / SAID).glob("*.jsonl"):
        # The last line may be half written.
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                each = json.loads(line)
                rounds[each["role"]] += each["done"] if each["role"] == "read" else 1
    return +rounds


def test_no_row_is_wrong_and_nobody_waits_for_ever(workers: Workers, tmp_path: Path) -> None:
    config = load_config(tmp_path / "run.yaml")
    root = open_root(config.root)
    begun, added, killed = time.monotonic(), FIRST, time.monotonic()
    # On a busy machine, a process may be killed several times before it has imported torch: then
    # each is left to come to an end.
    while (passed := time.monotonic() - begun) < SECONDS or set(_rounds(tmp_path)) < set(ROLES):
        time.sleep(0.5)
        workers.check()
        due = FIRST + int((ALL - FIRST) * passed / SECONDS)
        for number in range(added, min(due, ALL)):
            _add(tmp_path / "photos", number)
        added = max(added, due)
        if passed < SECONDS and time.monotonic() - killed > _KILL_EVERY:
            workers.kill_one(root)
            killed = time.monotonic()
    for number in range(added, ALL):
        _add(tmp_path / "photos", number)
    workers.end()
    compared = _rounds(tmp_path)["read"]
    print(_rounds(tmp_path), workers.kills)
    assert compared > 1000
    assert sum(workers.kills.values()) >= 3
    # What is left is done by one more night, undisturbed.
    RetrainingRun(config).run()
    run = Pipeline(config)
    assert len(run.indexed.data.keys()) == ALL
    with np.load(tmp_path / REFERENCE) as stored:
        caches = [name for name in stored.files if not name.endswith("/keys")]
        assert len(caches) == 2
        for cache_id in caches:
            cache = FeatureCache.open(root, cache_id)
            assert cache.verify() == []
            assert cache.missing(list(stored[f"{cache_id}/keys"])) == []
    assert holders(root).live == {}
