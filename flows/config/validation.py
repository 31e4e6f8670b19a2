"""Settings to a run's config, with errors in the words of the file."""

import difflib
from reprlib import Repr
from typing import Any, get_args

from pydantic import ValidationError

from flows.config.run import RunConfig
from tintem_core.errors import InputError

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def validated(content: dict[str, Any], where: str) -> RunConfig:
    """Validate settings.

    Raises:
        InputError: one line per problem, with the key and the cure.
    """
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        problems = [_explain(e) for e in error.errors()]
        count = f"{len(problems)} error{'s' if len(problems) > 1 else ''}"
        raise InputError(f"found {count} in {where}: " + "; ".join(problems)) from error


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _known_keys(problem["loc"][:-1])
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        meant = f": did you mean '{close[0]}'?" if close else ""
        return f"'{key}' is not a setting{meant}" + (
            f" (known here: {', '.join(known)})" if known else ""
        )
    if problem["type"] == "missing":
        return f"'{key}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = _SHORT.repr(problem["input"])
    return f"'{key}' is {given}: {message[0].lower()}{message[1:]}" if key else message


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    model: Any = RunConfig
    for part in location:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            # A list of settings is annotated tuple[Settings, ...].
            candidates = (annotation, *get_args(annotation))
            model = next((c for c in candidates if hasattr(c, "model_fields")), RunConfig)
    return list(model.model_fields)
