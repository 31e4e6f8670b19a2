"""Pages, cards and configs as templates, and how they are filled in."""

from base64 import b64encode
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

_TEMPLATES = Environment(
    loader=PackageLoader("flows"),
    autoescape=select_autoescape(["html.jinja"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters["base64"] = lambda data: b64encode(data).decode()


def render(template: str, /, **values: Any) -> str:
    """Fill in a template of this folder; values are escaped where it is HTML."""
    return _TEMPLATES.get_template(template).render(values)
