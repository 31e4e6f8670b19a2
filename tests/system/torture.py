"""SIGKILL at random instants, or before every change of a file: in the end everything equals an
undisturbed run.

python -m tests.system.torture --kills 100 --seed 1 --only run,nightly --folder /tmp/torture
python -m tests.system.torture --changes --only run,sweep
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flows.cli.interrupt import SENTENCE
from flows.orchestration.ephemeral import LocalServer
from tests.system.torture_changes import Doom
from tests.system.torture_command import Command, TortureError, environment_in
from tests.system.torture_preloaded import Preloaded
from tests.system.torture_serve import torture_service
from tests.system.torture_state import State, changes, differences, state_of
from tests.system.torture_subjects import SUBJECTS, Place, Subject

SERVICE, _SERVICE_SHARE = "serve", 0.17
# A command that is not killed takes half a minute on two idle cores.
_LONGEST = 900.0
_LOOK_EVERY = 0.02
# Of the instants: while something is done, and not while modules are imported.
_AT_WORK = 0.85
_WITH_CHILDREN = 0.3
# Beside the kills; both end a command with a sentence.
_SIGNALLED = 0.15
_SECONDS_TO_END = 6.0
_QUIET = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}


@dataclass
class Told:
    """What was done to a command, and what came of it."""

    kills: int = 0
    signals: int = 0
    rounds: int = 0
    """Ended and compared."""
    moments: Counter[str] = field(default_factory=Counter)
    """What was being worked on when a kill came."""
    seconds: float = 0.0

    def __str__(self) -> str:
        moments = ", ".join(f"{name} {count}" for name, count in self.moments.most_common())
        return (
            f"{self.kills} kills, {self.signals} SIGTERM or SIGINT, {self.rounds} rounds, each as "
            f"undisturbed, {self.seconds:.0f} s; killed while it held: {moments}"
        )


@dataclass(frozen=True)
class Undisturbed:
    """How long a command takes, and what it leaves."""

    seconds: float
    working: float
    """Of these, since it first changed a file."""
    state: State


class Torturer:
    """Kills commands at instants that follow from a seed.

    Args:
        folder: empty; everything happens there.
        seed: of every random choice.
        preloaded: whether commands are forked from a process that has imported everything, and
            talk to a Prefect server that outlives them.
    """

    def __init__(self, folder: Path, seed: int, *, preloaded: bool = False) -> None:
        self._folder, self._draw = folder, random.Random(seed)
        self._place = Place(folder, self._run)
        # A private server is named in it for whatever this process starts.
        self._environment = dict(os.environ)
        self._server: LocalServer | None = None
        self._preloaded: Preloaded | None = None
        if preloaded:
            self._server = LocalServer(folder / "server")
            self._server.wait()
            self._preloaded = Preloaded(folder, environment_in(folder) | _QUIET)
            # The first command finds out what is imported.
            self._place.begin(None)
            self.close_preloaded()
            self._preloaded = Preloaded(folder, environment_in(folder) | _QUIET)

    def close(self) -> None:
        """End what was started beside the commands."""
        self.close_preloaded()
        if self._server is not None:
            self._server.stop()
        os.environ.clear()
        os.environ.update(self._environment)

    def close_preloaded(self) -> None:
        if self._preloaded is not None:
            self._preloaded.close()

    def _start(self, words: Sequence[str], doom: Doom | None = None) -> Command:
        return Command(self._folder, words, self._preloaded, doom)

    def torture(self, subject: Subject, kills: int) -> Told:
        """Kill a command so often, over as many rounds as it takes.

        Raises:
            TortureError: if it fails, leaves a process, or ends with anything else than
                undisturbed.
        """
        told, started = Told(), time.monotonic()
        wanted = self._measure(subject)
        while told.kills < kills:
            subject.begin(self._place)
            while told.kills < kills and self._kill_once(subject, wanted, told):
                pass
            if not subject.is_done(self._place):
                self._run(subject.words)
            self._compare(subject, wanted)
            told.rounds += 1
            print(f"{subject.words[0]}: round {told.rounds} is as undisturbed", flush=True)
        told.seconds = time.monotonic() - started
        return told

    def die_before_every_change(self, subject: Subject) -> list[str]:
        """Let a command die before each kind of change that it makes, one after the other.

        Returns:
            The changes, in the order in which it came to them.

        Raises:
            TortureError: as :meth:`torture`.
        """
        wanted = self._measure(subject)
        subject.begin(self._place)
        diary = self._folder / "diary.txt"
        diary.write_text("")
        doom = Doom(str(self._folder / subject.results), str(diary))
        is_over = False
        while not is_over and not subject.is_done(self._place):
            before = diary.read_text()
            with self._start(subject.words, doom) as command:
                command.process.wait(_LONGEST)
                is_over = diary.read_text() == before
                if is_over:
                    command.expect_success(0)
        self._compare(subject, wanted)
        return diary.read_text().splitlines()

    def torture_service(self, kills: int) -> Told:
        """Kill `tintem serve` while clients ask it."""
        started = time.monotonic()
        self._place.begin_embedding()
        asked = torture_service(self._folder, self._draw, kills)
        moments = Counter({"answers": asked.answers, "broken connections": asked.broken})
        return Told(kills, asked.signals, kills, moments, time.monotonic() - started)

    def _compare(self, subject: Subject, wanted: Undisturbed) -> None:
        subject.tidy(self._place)
        found = differences(wanted.state, state_of(self._folder / subject.results))
        if found:
            raise TortureError(f"{subject.words} is not as undisturbed:\n" + "\n".join(found))

    def _measure(self, subject: Subject) -> Undisturbed:
        subject.begin(self._place)
        watched = self._folder / subject.results
        before, started = changes(watched), time.monotonic()
        with self._start(subject.words) as command:
            while changes(watched) == before and command.process.poll() is None:
                time.sleep(_LOOK_EVERY)
            first = time.monotonic()
            command.expect_success(_LONGEST)
        ended = time.monotonic()
        subject.tidy(self._place)
        return Undisturbed(ended - started, ended - first, state_of(watched))

    def _kill_once(self, subject: Subject, wanted: Undisturbed, told: Told) -> bool:
        """Start the command and kill it; False where it ended before."""
        if subject.is_done(self._place):
            return False
        at_work = self._draw.random() < _AT_WORK
        delay = self._draw.uniform(0, wanted.working if at_work else wanted.seconds)
        with_children = self._draw.random() < _WITH_CHILDREN
        number = self._draw.choice([signal.SIGTERM, signal.SIGINT])
        is_signalled = at_work and self._draw.random() < _SIGNALLED
        watched = self._folder / subject.results
        before = changes(watched)
        with self._start(subject.words) as command:
            process = command.process
            while at_work and changes(watched) == before and process.poll() is None:
                time.sleep(_LOOK_EVERY)
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                moment = subject.moment(self._place, process.pid)
            else:
                command.expect_success(0)
                return False
            if is_signalled:
                process.send_signal(number)
                command.expect_end(128 + number, SENTENCE, _SECONDS_TO_END)
                told.signals += 1
            else:
                command.kill(with_children=with_children)
                told.kills += 1
                told.moments[moment] += 1
        how = number.name if is_signalled else f"kill {told.kills}"
        print(f"{subject.words[0]}: {how} after {delay:.2f} s, {moment}", flush=True)
        return True

    def _run(self, words: Sequence[str]) -> None:
        with self._start(words) as command:
            command.expect_success(_LONGEST)


def hardware() -> str:
    memory = psutil.virtual_memory().total / 2**30
    with open("/proc/cpuinfo") as info:  # noqa: PTH123
        names = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    return f"{psutil.cpu_count()} cores ({names[0] if names else 'unknown'}), {memory:.0f} GiB"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = [*SUBJECTS, SERVICE]
    parser.add_argument("--kills", type=int, default=100, help="of all commands together")
    parser.add_argument("--seed", type=int, help="of every random choice; else drawn, and printed")
    parser.add_argument("--only", default=",".join(names), help="commands, with commas between")
    parser.add_argument("--folder", type=Path, help="emptied first; else one for the time being")
    parser.add_argument(
        "--preloaded", action="store_true", help="fork commands from a process with all imports"
    )
    parser.add_argument(
        "--changes", action="store_true", help="die once before each kind of change instead"
    )
    given = parser.parse_args()
    # So that the command that runs just then is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    print(f"seed {seed}; {hardware()}", flush=True)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="tintem-torture-"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torturer = Torturer(folder.absolute(), seed, preloaded=given.preloaded or given.changes)
    shares = dict.fromkeys(names, _SERVICE_SHARE) | {n: s.share for n, s in SUBJECTS.items()}
    asked, faults = given.only.split(","), []
    for name in asked:
        kills = max(1, round(given.kills * shares[name] / sum(shares[each] for each in asked)))
        told: Told | str
        try:
            if name == SERVICE:
                told = torturer.torture_service(kills)
            elif given.changes:
                died = torturer.die_before_every_change(SUBJECTS[name])
                told = "\n  ".join([f"as undisturbed after {len(died)} deaths, before", *died])
            else:
                told = torturer.torture(SUBJECTS[name], kills)
        except TortureError as error:
            faults.append(name)
            print(f"{name}: FAULT: {error}", flush=True)
        else:
            print(f"{name}: {told}", flush=True)
    torturer.close()
    if faults:
        sys.exit(f"a kill did harm to {', '.join(faults)}, in {folder}; the seed was {seed}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
