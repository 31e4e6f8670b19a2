"""Runs that differ from one config in a few named settings."""

from collections.abc import Mapping
from typing import Any

from flows.config import RunConfig, parse_config
from tintem_core.errors import InputError


def variant(config: RunConfig, settings: Mapping[str, Any], where: str = "settings") -> RunConfig:
    """Return the config with some settings changed, as if the YAML file had said so.

    Args:
        config: the run to start from.
        settings: new values by dotted name, such as ``{"student.model": "vit_tiny_patch16_224"}``;
            a mapping as value replaces only the settings that it names.
        where: what an error calls the place of these settings.

    Raises:
        InputError: if a name or a value is none of a run.
    """
    # What the config leaves out stays out, so that defaults may depend on what is set.
    content = config.model_dump(mode="json", exclude_unset=True)
    for name, value in settings.items():
        *path, last = name.split(".")
        section = content
        for part in path:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise InputError(f"{where}: '{name}' is not a setting of a run.")
        if isinstance(value, Mapping) and isinstance(section.get(last), dict):
            section[last] = {**section[last], **value}
        else:
            section[last] = value
    return parse_config(content, where)
