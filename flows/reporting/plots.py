"""How the plots of a page look, and how they get into it.

The page says by CSS variables which colours text, axes and grids have, for a light and a dark page;
what is drawn with the colours below reads on both.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bokeh
from bokeh.embed.util import OutputDocumentFor, standalone_docs_json_and_render_items
from bokeh.models import HoverTool, NumeralTickFormatter, SaveTool
from bokeh.plotting import figure
from markupsafe import Markup

TEACHER, STUDENT, STRANGE = "#8a94a0", "#0d94ab", "#e0662b"
_TEXT = "#808b97"
# Okabe and Ito's colours without black, which the colour-blind can tell apart too.
COLOURS = ("#0d94ab", "#e0662b", "#1a9e77", "#cc79a7", "#d99a00", "#56a5e0", "#a3793d", "#8878d8")
_HEIGHT = 320


def plot(title: str, x: str, y: str, **options: Any) -> figure:
    """Return an empty plot, as wide as the place that it is put in.

    Args:
        title: says what is seen; for those who cannot see it too.
        x, y: what the axes are.
        options: of Bokeh's figure.
    """
    made = figure(
        height=options.pop("height", _HEIGHT),
        title=title,
        x_axis_label=x,
        y_axis_label=y,
        sizing_mode="stretch_width",
        toolbar_location=options.pop("toolbar_location", None),
        tools=options.pop("tools", ""),
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border_right=12,
        **options,
    )
    made.toolbar.logo = None
    made.toolbar.autohide = True
    made.add_tools(SaveTool())
    for axis in made.axis:
        axis.minor_tick_line_color = None
    return made


def hover(made: figure, tooltips: Any, *renderers: Any) -> None:
    """Show something about the point under the pointer."""
    made.add_tools(HoverTool(tooltips=tooltips, renderers=list(renderers), visible=False))


def legend_above(made: figure) -> None:
    """Put the legend where it covers nothing."""
    made.add_layout(made.legend[0], "above")
    made.legend.orientation = "horizontal"
    made.legend.background_fill_color = None
    made.legend.border_line_color = None
    made.legend.padding = 0
    made.legend.label_text_font_size = "12px"
    # Unlike axes and titles, Bokeh's legends do not read the page's colours.
    made.legend.label_text_color = _TEXT


def in_millions(axis: Any) -> None:
    axis.formatter = NumeralTickFormatter(format="0.[00]a")


@dataclass(frozen=True)
class Embedded:
    """Plots as a page holds them: where each is drawn, by its name, and what draws them."""

    places: Mapping[str, Markup]
    documents: Markup
    """JSON: Bokeh's documents, and where their plots are drawn."""
    library: Markup
    """JavaScript: Bokeh itself, so that nothing is fetched."""


def embedded(groups: Sequence[Mapping[str, figure]]) -> Embedded:
    """Prepare plots for a page, which draws a group when a reader comes near it.

    Args:
        groups: plots by name; within a group, those that share a source of data are linked.
    """
    documents: list[dict[str, Any]] = []
    places: dict[str, Markup] = {}
    for group in groups:
        if not group:
            continue
        models = list(group.values())
        with OutputDocumentFor(models):
            found, (item,) = standalone_docs_json_and_render_items(models)
        ids = {root.id: root.elementid for root in item.roots}
        for name, made in group.items():
            places[name] = Markup(
                '<div class="plot" id="{}" data-group="{}" style="min-height:{}px"></div>'
            ).format(ids[made.id], len(documents), made.height)
        documents.append({"documents": found, "items": [item.to_json()]})
    library = Path(bokeh.__file__).parent / "server/static/js/bokeh.min.js"
    return Embedded(
        places,
        _in_a_script(json.dumps(documents)),
        _in_a_script(library.read_text(encoding="utf-8")),
    )


def _in_a_script(content: str) -> Markup:
    return Markup(content.replace("</", "<\\/"))
