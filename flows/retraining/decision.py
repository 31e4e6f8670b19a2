"""What a night decides about a student, and why, in sentences."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from flows.config.retraining import NightlyConfig
from flows.retraining.changes import Changes, ModelLine
from flows.retraining.drift import Scored
from flows.retraining.gates import Verdict
from storage.versions import Model
from tintem_core.evaluation.drift import Drift

Outcome = Literal["failed", "promoted", "kept", "waiting", "nothing new"]
# What a night of several students is called by: the first of these that any of them came to.
_FIRST: tuple[Outcome, ...] = ("failed", "promoted", "kept", "waiting", "nothing new")


@dataclass(frozen=True)
class Trigger:
    """Every reason to train again, and everything that is none."""

    reasons: tuple[str, ...]
    otherwise: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What became of one student tonight."""

    outcome: Outcome
    why: str
    trigger: Trigger = Trigger((), ())
    student: str | None = None
    export: str | None = None
    mapping: dict[str, Any] = field(default_factory=dict)
    warm_start: dict[str, Any] = field(default_factory=dict)
    gates: tuple[Verdict, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    latest_metrics: dict[str, float] = field(default_factory=dict)
    """Of the latest that was in force, on the same photos; empty where it was not compared."""
    model: Model | None = None
    """What comes into force; None where nothing does."""
    error: Exception | None = None

    def as_record(self) -> dict[str, Any]:
        return {
            **{name: value for name, value in self.__dict__.items() if name != "error"},
            "trigger": asdict(self.trigger),
            "gates": [asdict(verdict) for verdict in self.gates],
            "model": None if self.model is None else asdict(self.model),
        }


def trigger(nightly: NightlyConfig, news: Changes, scored: Scored | None, force: bool) -> Trigger:
    """Say whether a student is trained again tonight."""
    reasons, otherwise = [], []
    if force:
        reasons.append("it was forced")
    if news.known is None:
        reasons.append("there is no latest yet")
        return Trigger(tuple(reasons), ())
    if nightly.growth is not None:
        count = counted(len(news.new.keys("train")), "new training photo")
        said = f"{count}, growth {news.growth:.1%}"
        if news.saved_anew:
            said += f" ({counted(news.saved_anew, 'known photo')} saved anew)"
        if news.growth >= nightly.growth:
            reasons.append(f"{said}, {nightly.growth:.1%} is enough")
        else:
            otherwise.append(f"{said} of {nightly.growth:.1%}")
    if nightly.drift is not None and scored is not None:
        if scored.drift is None:
            otherwise.append(f"drift is not known: {scored.unknown}")
        else:
            is_enough, said = drifted(nightly, scored.drift)
            (reasons if is_enough else otherwise).append(said)
    return Trigger(tuple(reasons), tuple(otherwise))


def drifted(nightly: NightlyConfig, drift: Drift) -> tuple[bool, str]:
    """Say whether drift is enough to train again, and whether it may be chance."""
    assert nightly.drift is not None
    verb = "is" if 1 in (drift.strange, drift.new) else "are"
    photos = counted(drift.new, "new photo")
    said = f"{drift.strange} of {photos} {verb} strange ({drift.share:.0%})"
    if drift.share < nightly.drift:
        return False, f"{said}, drift starts at {nightly.drift:.0%}"
    chance = f"photos without drift give as many with probability {drift.chance:.2g}"
    if drift.chance > nightly.chance:
        return False, f"{said}, but {chance}, above {nightly.chance:g}"
    return True, f"{said}, {nightly.drift:.0%} is enough; {chance}"


def describe_decision(line: ModelLine, decision: Decision) -> str:
    """Say what became of a student."""
    if decision.outcome == "promoted":
        return f"promoted {decision.student} as the latest of {line.student.line}: {decision.why}"
    if decision.outcome == "failed":
        return f"{line.name} failed: {decision.why}"
    if decision.outcome == "kept":
        kept = "no latest" if line.latest is None else f"the latest, {line.latest.model.student}"
        return f"kept {kept}: {decision.why}"
    if decision.outcome == "waiting":
        return f"{line.name} waits: {decision.why}"
    return f"{line.name}: nothing new"


def headline(outcomes: Iterable[Outcome]) -> Outcome:
    """Return what a night of several students is called by."""
    found = set(outcomes)
    return next(outcome for outcome in _FIRST if outcome in found)


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
