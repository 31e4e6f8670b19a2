"""Every setting of a run, from the models that check them: a page, a JSON schema, a full config.

python -m flows.config.reference docs      # writes docs/settings.md and docs/tintem.schema.json
"""

import json
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from flows.config.run import RunConfig

_INTRODUCTION = """# Settings

Every setting of a run's YAML file, made from the models that check it (`make reference`). A setting
that is left out has its default. `tintem init FOLDER --full` writes all of them as comments, and
`tintem schema > tintem.schema.json` gives editors what they need to complete and check a config:

```yaml
# yaml-language-server: $schema=tintem.schema.json
```
"""
_BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}",
           "exclusiveMaximum": "< {}"}  # fmt: skip
_WIDTH = 96


@dataclass(frozen=True)
class Section:
    """A part of the config that has settings of its own."""

    path: str
    model: type[BaseModel]
    is_list: bool


def schema() -> dict[str, Any]:
    """Return the JSON schema of a run's config."""
    return RunConfig.model_json_schema()


def page() -> str:
    """Return the Markdown page of all settings."""
    parts, told = [_INTRODUCTION], dict[type[BaseModel], str]()
    for section in _sections("", RunConfig):
        title = section.path + (" (a list)" if section.is_list else "")
        parts.append(f"## {title or 'At the top'}\n")
        about = (section.model.__doc__ or "").strip().splitlines()[0]
        if section.model in told:
            parts.append(f"{about} The settings of [{told[section.model]}]"
                         f"(#{_anchor(told[section.model])}).\n")  # fmt: skip
            continue
        told[section.model] = section.path
        properties = _resolved(section.model.model_json_schema())["properties"]
        lines = [about, "", "| setting | values | default | meaning |", "|---|---|---|---|"]
        for name, field in section.model.model_fields.items():
            cells = (
                f"`{name}`",
                _values(properties[name]),
                _default(field),
                field.description or _first_line(field),
            )
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def full_config(settings: dict[str, Any]) -> str:
    """Return a config with these settings, and every other one as a comment with its default."""
    return "".join(_full(RunConfig, settings, "")).lstrip("\n")


def _full(model: type[BaseModel], settings: dict[str, Any], indent: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner, is_list = _model_in(field.annotation)
        about = field.description or _first_line(field)
        wrapped = textwrap.wrap(about, _WIDTH - len(indent))
        yield ("\n" if not indent else "") + "".join(f"{indent}# {line}\n" for line in wrapped)
        is_section = inner is not None and not is_list
        if name in settings and is_section and isinstance(settings[name], dict):
            yield f"{indent}{name}:\n"
            yield from _full(inner, settings[name], f"{indent}  ")  # type: ignore[arg-type]
        elif name in settings:
            yield textwrap.indent(_yaml({name: settings[name]}), indent)
        elif is_section and field.default is not None:
            yield f"{indent}# {name}:\n"
            for line in "".join(_full(inner, {}, "  ")).splitlines():  # type: ignore[arg-type]
                yield f"{indent}# {line}\n"
        else:
            yield textwrap.indent(_yaml({name: _plain(field)}), f"{indent}# ")


def _sections(path: str, model: type[BaseModel], is_list: bool = False) -> Iterator[Section]:
    yield Section(path, model, is_list)
    for name, field in model.model_fields.items():
        inner, many = _model_in(field.annotation)
        if inner is not None:
            yield from _sections(f"{path}.{name}".lstrip("."), inner, many)


def _model_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the model that a setting's value is of, if it is, and whether it is a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    origin = typing.get_origin(annotation)
    for part in typing.get_args(annotation):
        found, is_list = _model_in(part)
        if found is not None:
            return found, is_list or origin not in (typing.Union, types.UnionType)
    return None, False


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Put what a schema refers to in the place of the reference."""
    defined = schema.get("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, list):
            return [resolve(each) for each in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return {"section": True, **defined[part["$ref"].rpartition("/")[2]], "properties": {}}
        return {key: resolve(each) for key, each in part.items() if key != "$defs"}

    found: dict[str, Any] = resolve(schema)
    return found


def _values(form: dict[str, Any]) -> str:
    """Say which values a setting may have."""
    if form.get("section"):
        return "a section"
    if "anyOf" in form:
        return " or ".join(dict.fromkeys(_values(each) for each in form["anyOf"]))
    if "enum" in form:
        return ", ".join(str(each) for each in form["enum"])
    if "const" in form:
        return str(form["const"])
    kind = form.get("type", "anything")
    if kind == "array":
        items = form.get("items") or {"type": "anything"}
        return "list of sections" if items.get("section") else f"list of {_values(items)}"
    name = {"integer": "whole number", "string": "text", "boolean": "true, false",
            "object": "settings"}.get(kind, kind)  # fmt: skip
    bounds = [_BOUNDS[key].format(_number(form[key])) for key in _BOUNDS if key in form]
    return ", ".join([name, *bounds])


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) or abs(value) < 1e6 else f"{value:,}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    inner, is_list = _model_in(field.annotation)
    if inner is not None and not is_list and field.default is not None:
        return "see below"
    return f"`{json.dumps(_plain(field), ensure_ascii=False, default=str)}`"


def _plain(field: FieldInfo) -> Any:
    """Return a default as YAML and JSON have it."""
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "..."
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple):
        return [each.model_dump(mode="json", exclude_none=True) if isinstance(each, BaseModel)
                else each for each in value]  # fmt: skip
    return value


def _first_line(field: FieldInfo) -> str:
    inner, _ = _model_in(field.annotation)
    return ((inner.__doc__ if inner else "") or "").strip().splitlines()[0]


def _yaml(content: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=_WIDTH)
    return text


def _anchor(title: str) -> str:
    return title.lower().replace(".", "").replace(" ", "-")


def write_reference(folder: Path) -> None:
    (folder / "settings.md").write_text(page(), encoding="utf-8")
    text = json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
    (folder / "tintem.schema.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
