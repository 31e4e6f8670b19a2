"""Mutations of drift, and of what a night decides."""

from tests.mutations.mutation import Mutation

_DRIFT = "tintem_core/evaluation/drift.py"
_GATES = "flows/retraining/gates.py"
_DECISION = "flows/retraining/decision.py"
_DRIFT_TESTS = ("tests/tintem_core/evaluation/test_drift.py",)
_DECISION_TESTS = ("tests/flows/retraining/test_decision.py",)

DRIFT = (
    Mutation(
        "drift-rank", _DRIFT,
        "int(USUAL_SHARE * (count + 1) + 1e-9)",
        "int(USUAL_SHARE * (count + 1) + 1e-9) + 1",
        "More than 5 % of usual photos are called strange.",
        _DRIFT_TESTS,
    ),
    Mutation(
        "drift-threshold", _DRIFT,
        "np.count_nonzero(new_scores < threshold)",
        "np.count_nonzero(new_scores <= threshold)",
        "A photo as strange as a known one counts as strange.",
        _DRIFT_TESTS,
    ),
    Mutation(
        "drift-chance-at-least", _DRIFT,
        ".sf(strange - 1)",
        ".sf(strange)",
        "The chance of as many strange photos is that of one more.",
        _DRIFT_TESTS,
    ),
    Mutation(
        "drift-chance-of-one-threshold", _DRIFT,
        "betabinom(new, rank, known + 1 - rank)",
        "betabinom(new, 1e6 * rank, 1e6 * (known + 1 - rank))",
        "The chance is that of a threshold known exactly: drift is seen where there is none.",
        _DRIFT_TESTS,
    ),
    Mutation(
        "drift-nearest-of-a-piece", _DRIFT,
        "rows[is_nearer, 0] + piece.start",
        "rows[is_nearer, 0]",
        "The photo that is shown beside a strange one is not its nearest.",
        _DRIFT_TESTS,
    ),
    Mutation(
        "drift-last-piece-wins", _DRIFT,
        "is_nearer = found[:, 0] > best",
        "is_nearer = found[:, 0] > -2",
        "Photos look strange, as they are compared with the last piece of the reference.",
        _DRIFT_TESTS,
    ),
    Mutation(
        "drift-chance-ignored", _DECISION,
        "if drift.chance > nightly.chance:",
        "if drift.chance > 1:",
        "One photo that is strange by chance starts a training.",
        _DECISION_TESTS,
    ),
    Mutation(
        "drift-share-ignored", _DECISION,
        "if drift.share < nightly.drift:",
        "if drift.share < 0:",
        "A training starts at any share of strange photos.",
        _DECISION_TESTS,
    ),
    Mutation(
        "growth-is-never-enough", _DECISION,
        "if news.growth >= nightly.growth:",
        "if news.growth > nightly.growth:",
        "Growth by just the wanted share trains nothing.",
        ("tests/flows/retraining/test_changes.py",),
    ),
    Mutation(
        "growth-of-all-photos", "flows/retraining/changes.py",
        'len(self.new.keys("train")) / len(self.known.keys("train"))',
        'len(self.new.keys()) / len(self.known.keys("train"))',
        "Test photos count as photos to learn from.",
        ("tests/flows/retraining/test_changes.py",),
    ),
)  # fmt: skip

GATES = (
    Mutation(
        "gate-minimum-is-a-maximum", _GATES,
        'passed = value >= bound if limit == "minimum" else value <= bound',
        'passed = value <= bound if limit == "minimum" else value >= bound',
        "Students that are too bad pass, good ones do not.",
        _DECISION_TESTS,
    ),
    Mutation(
        "gate-may-fall-sign", _GATES,
        "change >= -bound if",
        "change >= bound if",
        "A student must rise by what it may fall.",
        _DECISION_TESTS,
    ),
    Mutation(
        "gate-limits-swapped", _GATES,
        'if limit == "may_fall" else change <= bound',
        'if limit == "may_rise" else change <= bound',
        "may_fall holds for metrics that may rise.",
        _DECISION_TESTS,
    ),
    Mutation(
        "gate-unmeasured-passes", _GATES,
        "return Verdict(metric, rule, None, latest, False, why)",
        "return Verdict(metric, rule, None, latest, None, why)",
        "A student of which a gate was not measured is promoted.",
        _DECISION_TESTS,
    ),
    Mutation(
        "gate-one-is-enough", _GATES,
        "return all(verdict.passed is not False for verdict in verdicts)",
        "return any(verdict.passed is not False for verdict in verdicts)",
        "One open gate promotes a student that others refuse.",
        _DECISION_TESTS,
    ),
    Mutation(
        "gate-nan-passes", _GATES,
        'passed = value >= bound if limit == "minimum" else value <= bound',
        'passed = not value < bound if limit == "minimum" else not value > bound',
        "A student whose metric is NaN is promoted.",
        _DECISION_TESTS,
    ),
)  # fmt: skip
