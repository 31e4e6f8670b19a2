"""A night as artifacts on Prefect's pages: what happened, the gates, the strangest photos."""

import base64
from collections.abc import Mapping
from typing import Any

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from flows.retraining.gates import VERDICTS
from flows.retraining.record import KIND, REPORT, STRANGEST
from flows.retraining.run import RetrainingResult
from storage.artifacts import read_file, read_record
from storage.identity import slugify
from storage.root import Root

_NAMED = 5


def publish_retraining(root: Root, ended: RetrainingResult) -> None:
    """Show how a night ended that had something to decide."""
    assert ended.record is not None
    assert ended.night is not None
    data = ended.record["data"]["name"]
    # On a server that projects share, each has keys of its own.
    project = slugify(data)
    text = _markdown(ended.record, f"{root.url}/{KIND}/{ended.night}/{REPORT}")
    create_markdown_artifact(text, key=f"{project}-night", description=data)
    gates = [
        {
            "student": line["name"],
            "metric": gate["metric"],
            "limit": gate["rule"],
            "new": _rounded(gate["value"]),
            "latest": _rounded(gate["latest"]),
            "verdict": VERDICTS[gate["passed"]],
        }
        for line in ended.record["lines"].values()
        for gate in line["gates"]
    ]
    if gates:
        create_table_artifact(
            gates,
            key=f"{project}-gates",
            description="measured on tonight's test photos, new and latest",
        )
    stored = read_record(root, KIND, ended.night)
    if stored is not None and STRANGEST in stored["files"]:
        picture = base64.b64encode(read_file(root, KIND, ended.night, STRANGEST)).decode()
        create_image_artifact(
            f"data:image/jpeg;base64,{picture}",
            key=f"{project}-strangest-photos",
            description="The strangest new photos, each above its nearest known one",
        )


def _markdown(record: Mapping[str, Any], report: str) -> str:
    lines = [f"# {record['outcome'].capitalize()}", "", record["says"], ""]
    for line in record["lines"].values():
        lines += _of_student(line)
    return "\n".join([*lines, "", f"Report: `{report}`"])


def _of_student(line: Mapping[str, Any]) -> list[str]:
    news, drift = line["news"], line["drift"]
    lines = [f"## {line['name']}: {line['outcome']}", "", "| | |", "|---|---|"]
    lines.append(f"| new photos | {news['new']:,} ({news['new_train']:,} to learn from) |")
    if news["growth"] is not None:
        lines.append(f"| growth | {news['growth']:.1%} |")
    if drift is not None and "strange" in drift:
        lines += [
            f"| strange | {drift['strange']:,} ({drift['share']:.1%}, expected "
            f"{drift['usual_share']:.1%}) |",
            f"| AUROC, known against new | {drift['auroc']:.3f} |",
        ]
    lines.append("")
    lines += [
        f"- `{photo['uri']}`: cosine {photo['score']:.4f} to `{photo['nearest_uri']}`"
        for photo in line["strangest"][:_NAMED]
    ]
    return lines


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
