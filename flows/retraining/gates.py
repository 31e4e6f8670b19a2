"""Whether a new student may take the place of the latest."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flows.config.retraining import GateConfig
from flows.data.dataset import Dataset
from tintem_core.errors import InputError
from tintem_core.evaluation.metrics import EXCHANGE, metric_of

Metrics = Mapping[str, float]
VERDICTS = {True: "passed", False: "not passed", None: "does not apply"}


@dataclass(frozen=True)
class Verdict:
    """What one limit of a gate says."""

    metric: str
    rule: str
    value: float | None
    latest: float | None
    """Of the current latest, on the same photos; None where it was not compared."""
    passed: bool | None
    """None: the limit does not apply."""
    why: str


def judge(
    gates: Iterable[GateConfig], metrics: Metrics, latest: Metrics | None, alone: str
) -> list[Verdict]:
    """Hold a student's numbers against the gates, one verdict per limit.

    Args:
        metrics: of the new student.
        latest: of the current latest on the same photos; None where there is nothing to compare.
        alone: why there is nothing to compare.
    """
    found = []
    for gate in gates:
        value = metrics.get(gate.metric)
        before = None if latest is None else latest.get(gate.metric)
        missing = alone if latest is None else "it was not measured of the latest"
        has_no_index = value is None and latest is None and _asks_an_index(gate.metric)
        for limit, rule in _RULES.items():
            bound = getattr(gate, limit)
            if bound is None:
                continue
            if has_no_index:
                said = rule.format(bound)
                found.append(Verdict(gate.metric, said, None, None, passed=None, why=alone))
            else:
                found.append(_verdict(gate.metric, limit, bound, value, before, missing))
    return found


def _asks_an_index(metric: str) -> bool:
    return metric.startswith(f"{EXCHANGE}/")


def is_open(verdicts: Iterable[Verdict]) -> bool:
    """Whether no limit stands in the way."""
    return all(verdict.passed is not False for verdict in verdicts)


def refuse_unmeasured(
    gates: Iterable[GateConfig], data: Dataset, ood: Mapping[str, Dataset]
) -> None:
    """Refuse gates that could only fail, for want of labels or of photos.

    Args:
        data: the photos of the run.
        ood: the out-of-distribution sets, by name.

    Raises:
        InputError: if there is one.
    """
    for place, gate in enumerate(gates):
        metric, asked = metric_of(gate.metric), gate.metric.split("/")[1]
        photos = len(ood[asked].keys() if asked in ood else data.keys("test"))
        if photos < metric.fewest:
            raise InputError(
                f"nightly.gates[{place}]: '{gate.metric}' is measured over {metric.fewest} photos "
                f"or more, as of fewer chance alone reaches more than half, and {asked} has "
                f"{photos}: test on more photos, or leave the gate out."
            )
        if metric.needs_labels and not data.is_labelled:
            raise InputError(
                f"nightly.gates[{place}]: '{gate.metric}' is measured over the train and test "
                f"photos that have labels, and photos of {data.name} have none: label them, or "
                "leave the gate out."
            )


def _verdict(
    metric: str,
    limit: str,
    bound: float,
    value: float | None,
    latest: float | None,
    missing: str,
) -> Verdict:
    rule = _RULES[limit].format(bound)
    if value is None:
        why = f"{metric} was not measured"
        if _asks_an_index(metric):
            why += ": the student shares no space with the one whose index it would ask"
        return Verdict(metric, rule, None, latest, False, why)
    if limit in ("may_fall", "may_rise"):
        if latest is None:
            return Verdict(metric, rule, value, None, None, missing)
        change = value - latest
        passed = change >= -bound if limit == "may_fall" else change <= bound
        way = "below" if change < 0 else "above"
        why = (
            f"{metric} is {value:.4g}, {abs(change):.2g} {way} the latest's {latest:.4g}; it {rule}"
        )
    else:
        passed = value >= bound if limit == "minimum" else value <= bound
        why = f"{metric} is {value:.4g}, wanted {rule}"
        if not passed:
            why += f" ({abs(value - bound):.2g} {'below' if value < bound else 'above'})"
    return Verdict(metric, rule, value, latest, passed, why)


_RULES = {
    "minimum": "at least {:g}",
    "maximum": "at most {:g}",
    "may_fall": "may fall by {:g}",
    "may_rise": "may rise by {:g}",
}
