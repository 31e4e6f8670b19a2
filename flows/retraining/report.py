"""The page of a retraining: what it decided, the gates, the drift, and the strangest new photos."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.retraining.gates import VERDICTS
from flows.retraining.pictures import DriftView, histogram
from flows.templates import render


def retraining_page(night: str, record: Mapping[str, Any], found: Iterable[DriftView]) -> str:
    """Return a self-contained HTML page."""
    data = record["data"]
    return render(
        "retraining.html.jinja",
        title=f"{_TITLES[record['outcome']]} · {data['name']}",
        heading=_TITLES[record["outcome"]],
        subtitle=f"{data['name']} · {record['provenance']['created']} · {night}",
        photos=f"{data['train'] + data['test']:,} photos: {data['train']:,} to learn from, "
        f"{data['test']:,} kept apart for testing, {data['unreadable']:,} unreadable and left out.",
        students=[(line, _sentences(line)) for line in record["lines"].values()],
        strangers=list(found),
        classes=_CLASSES,
        passed={True: "yes", False: "no", None: "calm"},
        verdicts=VERDICTS,
        histogram=histogram,
        in_words=_in_words,
    )


def _sentences(line: Mapping[str, Any]) -> list[str]:
    news = line["news"]
    says = line["says"]
    # A name keeps its letters, also where it begins a sentence.
    is_name = says.startswith(line["name"])
    said = [f"{says if is_name else says[0].upper() + says[1:]}."]
    if line["latest"] is not None:
        gone = f", {news['gone']:,} are gone" if news["gone"] else ""
        decided = (
            f"{news['decided']:,} more were decided on without a change, "
            if news["decided"]
            else ""
        )
        said.append(
            f"In force before: {line['latest']['student']} (entry {line['latest']['number']}), "
            f"which knows {news['known']:,} photos; {decided}{news['new']:,} are new "
            f"({news['new_train']:,} to learn from, {news['new_test']:,} to test on){gone}."
        )
    if line["trigger"]["reasons"] and line["outcome"] != "promoted":
        said.append(f"Trained because: {'; '.join(line['trigger']['reasons'])}.")
    if line["trigger"]["reasons"] and line["trigger"]["otherwise"]:
        said.append(f"No reason to train: {'; '.join(line['trigger']['otherwise'])}.")
    return said + _kept_parts(line)


def _kept_parts(line: Mapping[str, Any]) -> list[str]:
    said = []
    mapping = line["mapping"]
    if mapping.get("kept"):
        said.append(
            "The latest's mapping is kept, so that embeddings can be compared with the latest's: "
            f"it keeps angles between tonight's test photos with Pearson "
            f"{mapping['pearson_now']:.4f} ({mapping['pearson_then']:.4f} when it was fitted)."
        )
    elif mapping:
        said.append(
            f"The mapping is new ({mapping['why']}): embeddings cannot be compared with those of "
            "an earlier student."
        )
    if line["warm_start"].get("done"):
        said.append("Training went on from the latest's weights.")
    return said


def _in_words(found: DriftView) -> str:
    usual = f"of {len(found.usual):,} known photos {_spread(found.usual)}"
    return f"Scores {usual}; of {len(found.new):,} new photos {_spread(found.new)}."


def _spread(values: NDArray[np.float32]) -> str:
    if not len(values):
        return "none"
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return f"around {middle:.3f} (90% between {low:.3f} and {high:.3f})"


_TITLES = {
    "promoted": "A new student is in force",
    "kept": "The latest stays",
    "waiting": "Not enough is new",
    "nothing new": "Nothing new",
    "failed": "A student failed",
}
_CLASSES = {
    "promoted": "good", "kept": "kept", "waiting": "calm", "nothing new": "calm", "failed": "bad",
}  # fmt: skip
