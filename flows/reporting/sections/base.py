"""What every section of a report has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from bokeh.plotting import figure


@dataclass(frozen=True, kw_only=True)
class Section:
    """One question, and its answer."""

    name: ClassVar[str]
    """Of its template and of its place on the page."""
    title: ClassVar[str]
    says: tuple[str, ...]
    """Sentences made from the numbers."""
    unmeasured: tuple[str, ...] = ()
    """What was not measured, and why."""
    plots: Mapping[str, figure] = field(default_factory=dict)
    """By name; no two sections have a plot of the same name."""
