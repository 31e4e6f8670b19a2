"""The page of a night: what it decided, the gates, the drift, and the strangest new photos."""

import base64
import html
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.nights.pictures import Shown, Strangers, histogram


def night_page(night: str, record: Mapping[str, Any], found: Iterable[Strangers]) -> str:
    """Return a self-contained HTML page."""
    data = record["data"]
    return _PAGE.format(
        title=html.escape(f"{_TITLES[record['outcome']]} · {data['name']}"),
        heading=html.escape(_TITLES[record["outcome"]]),
        subtitle=html.escape(f"{data['name']} · {record['provenance']['created']} · {night}"),
        photos=html.escape(
            f"{data['train'] + data['test']:,} photos: {data['train']:,} to learn from, "
            f"{data['test']:,} kept apart for testing, {data['unreadable']:,} unreadable and left "
            "out."
        ),
        students="".join(_student(line) for line in record["lines"].values()),
        strangers="".join(_strangers(strangers) for strangers in found),
    )


def _student(line: Mapping[str, Any]) -> str:
    news = line["news"]
    said = [f"{line['says'][0].upper()}{line['says'][1:]}."]
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
    said += _kept_parts(line)
    paragraphs = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in said)
    name = html.escape(line["name"])
    return (
        f"<section><h2><span class='tag {_CLASSES[line['outcome']]}'>"
        f"{html.escape(line['outcome'])}</span> {name}</h2>"
        f"{paragraphs}{_gates(line)}{_compared(line)}</section>"
    )


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


def _gates(line: Mapping[str, Any]) -> str:
    if not line["gates"]:
        return ""
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(gate['metric'])}</th>"
        f"<td>{html.escape(gate['rule'])}</td><td>{_number(gate['value'])}</td>"
        f"<td>{_number(gate['latest'])}</td>"
        f"<td class='{_PASSED[gate['passed']][0]}'>{_PASSED[gate['passed']][1]}"
        + (f" ({html.escape(gate['why'])})" if gate["passed"] is None else "")
        + "</td></tr>"
        for gate in line["gates"]
    )
    return (
        "<table><caption>Gates, measured on tonight's test photos</caption>"
        "<tr><th scope='col'>metric</th><th scope='col'>limit</th><th scope='col'>new</th>"
        f"<th scope='col'>latest</th><th scope='col'>verdict</th></tr>{rows}</table>"
    )


def _compared(line: Mapping[str, Any]) -> str:
    new, latest = line["metrics"], line["latest_metrics"]
    if not new:
        return ""
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(name)}</th><td>{_number(value)}</td>"
        f"<td>{_number(latest.get(name))}</td></tr>"
        for name, value in new.items()
    )
    return (
        "<details><summary>Everything that was measured</summary><table>"
        "<caption>The new student and the latest, on the same photos</caption>"
        "<tr><th scope='col'>metric</th><th scope='col'>new</th><th scope='col'>latest</th></tr>"
        f"{rows}</table></details>"
    )


def _strangers(found: Strangers) -> str:
    students = html.escape(", ".join(found.students))
    heading = f"<section><h2>New photos, next to those known to {students}</h2>"
    drift = found.drift
    if drift.get("unknown"):
        verdict = f"<p>Drift cannot be told: {html.escape(drift['unknown'])}.</p>"
    else:
        verdict = _drift(drift)
    picture = ""
    if len(found.new):
        words = html.escape(_in_words(found))
        picture = (
            "<figure><img alt='Histogram of the scores below' src='data:image/png;base64,"
            f"{histogram(found)}'><figcaption>{words}</figcaption></figure>"
        )
    return f"{heading}{verdict}{picture}{_grid(found)}</section>"


def _drift(drift: Mapping[str, Any]) -> str:
    rows = (
        ("strange new photos", f"{drift['strange']:,} of {drift['new']:,}"),
        ("their share", _interval(drift, "share", ".1%")),
        ("expected without drift", f"{drift['usual_share']:.1%}"),
        ("probability of as many without drift", f"{drift['chance']:.2g}"),
        ("AUROC, known against new (0.5: alike)", _interval(drift, "auroc", ".3f")),
        ("Kolmogorov-Smirnov distance", f"{drift['ks']:.3f} (p = {drift['ks_p']:.2g})"),
    )
    body = "".join(f"<tr><th scope='row'>{name}</th><td>{value}</td></tr>" for name, value in rows)
    return (
        f"<table><caption>Drift, told from {drift['known']:,} known photos that were not learned "
        f"from</caption>{body}</table><p>Square brackets: 95% intervals. A photo is strange below "
        f"a cosine of {drift['threshold']:.4f} to its nearest photo learned from.</p>"
    )


def _interval(drift: Mapping[str, Any], name: str, form: str) -> str:
    value, low, high = (drift[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _grid(found: Strangers) -> str:
    if not found.shown:
        return ""
    cards = "".join(_card(shown) for shown in found.shown)
    title = f"The {len(found.shown)} strangest of {len(found.new):,} new photos"
    return f"<h3>{title}</h3><ol class='grid'>{cards}</ol>"


def _card(shown: Shown) -> str:
    tag = "<span class='tag kept'>strange</span> " if shown.is_strange else ""
    return (
        f"<li><div class='pair'>{_picture(shown.picture, 'new photo', shown.uri)}"
        f"{_picture(shown.nearest_picture, 'nearest known', shown.nearest_uri)}</div>"
        f"<p>{tag}cosine {shown.score:.4f}, {html.escape(shown.split)}</p></li>"
    )


def _picture(data: bytes | None, what: str, uri: str) -> str:
    name = html.escape(uri.rpartition("/")[2])
    whole = html.escape(uri, quote=True)
    if data is None:
        shown = "<span class='absent'>not there any more</span>"
    else:
        source = base64.b64encode(data).decode()
        shown = f"<img alt='{what}: {name}' loading='lazy' src='data:image/jpeg;base64,{source}'>"
    return f"<figure title='{whole}'>{shown}<figcaption>{what}<br>{name}</figcaption></figure>"


def _in_words(found: Strangers) -> str:
    usual = f"of {len(found.usual):,} known photos {_spread(found.usual)}"
    return f"Scores {usual}; of {len(found.new):,} new photos {_spread(found.new)}."


def _spread(values: NDArray[np.float32]) -> str:
    if not len(values):
        return "none"
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return f"around {middle:.3f} (90% between {low:.3f} and {high:.3f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


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
_PASSED = {True: ("yes", "passed"), False: ("no", "not passed"), None: ("calm", "does not apply")}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 3rem auto;
        padding: 0 1rem; color: #1f2933; background: #fff; }}
 h1 {{ margin-bottom: 0; }} h1 + p {{ color: #52606d; margin-top: .3rem; }}
 h2 {{ margin-top: 2.5rem; color: #0b7285; border-bottom: 2px solid #0b7285; }}
 p {{ overflow-wrap: anywhere; }}
 table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
         margin: 1rem 0; }}
 caption {{ text-align: left; font-weight: 600; padding-bottom: .3rem; }}
 td, th {{ text-align: left; padding: .25rem .5rem; border-bottom: 1px solid #e4e7eb; }}
 th[scope=row] {{ font-weight: 400; }}
 .tag {{ font-size: .75em; padding: .1em .5em; border-radius: .3em; color: #fff;
        vertical-align: .1em; background: #52606d; }}
 .tag.good {{ background: #2b7a0b; }} .tag.kept {{ background: #b45309; }}
 .tag.bad {{ background: #b91c1c; }}
 td.yes {{ color: #2b6a0b; }} td.no {{ color: #b91c1c; font-weight: 600; }}
 figure {{ margin: 0; }} figcaption {{ font-size: .8rem; color: #52606d;
          overflow-wrap: anywhere; }}
 img {{ max-width: 100%; }} summary {{ cursor: pointer; }}
 .grid {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr));
         gap: 1rem; padding: 0; list-style: none; }}
 .grid li {{ border: 1px solid #e4e7eb; border-radius: .5rem; padding: .6rem; }}
 .grid p {{ margin: .4rem 0 0; font-size: .85rem; }}
 .pair {{ display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; }}
 .pair img {{ width: 100%; border-radius: .2rem; }}
 .absent {{ display: grid; place-items: center; aspect-ratio: 1; background: #f0f2f4;
           color: #52606d; font-size: .8rem; }}
</style></head>
<body><main><h1>{heading}</h1><p>{subtitle}</p><p>{photos}</p>
{students}
{strangers}
</main></body></html>
"""
