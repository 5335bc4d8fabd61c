"""Read a YAML file into a pydantic model. Everything that can be wrong gets a one-line message."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.errors import ConfigError, MissingFile, suggest

M = TypeVar("M", bound=BaseModel)
MAX_VALUE_LENGTH = 60
"""Characters of a value that an error message repeats."""


class StrictLoader(yaml.SafeLoader):
    """A safe loader that reads 2e-3 as a number and refuses duplicate keys.

    YAML 1.2 says that 2e-3 is a number, but PyYAML reads a string; of duplicate keys PyYAML
    silently keeps the last.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            problem = ""
            if not isinstance(key, yaml.ScalarNode):
                problem = "a key must be a plain string"
            elif key.value in seen:
                problem = f"`{key.value}` is given twice"
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def load_yaml(path: Path, model: type[M], *, kind: str) -> M:
    """Read and validate a file; `kind` names it in messages (`sweep`, `profile`).

    Raises:
        MissingFile, ConfigError: one line that begins with the path.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MissingFile(
            f"{path}: cannot be read ({error.strerror}); give a {kind} file"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; give a {kind} file") from None
    try:
        data = yaml.load(text, Loader=StrictLoader)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{path}{line}: {problem}; fix the YAML") from None
    except (ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML raises these for `2020-99-99`, for `!!bool maybe`, for a thousand brackets
        raise ConfigError(
            f"{path}: not YAML ({str(error)[:MAX_VALUE_LENGTH]}); fix the YAML"
        ) from None
    if not isinstance(data, dict):
        required = [name for name, field in model.model_fields.items() if field.is_required()]
        keys = " and ".join(f"`{name}`" for name in required)
        raise ConfigError(f"{path}: holds no keys; a {kind} needs at least {keys}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain_validation_error(error, model, data)}") from None


def explain_validation_error(
    error: ValidationError, model: type[BaseModel], data: dict[Any, Any]
) -> str:
    """Describe the first error in `data`, as `where = value is not allowed; advice`."""
    details = min(error.errors(include_url=False), key=_rank)
    path = _path(details, data)
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    where = "".join(parts).removeprefix(".")
    if details["type"] == "extra_forbidden":
        return f"{where} is not a known key; {_known_keys(path, model)}"
    if details["type"] == "missing":
        return f"{where} is missing; add it"
    if details["type"] == "value_error":  # raised by a validator, with the rest of the path, if any
        text = str(details["ctx"]["error"])
        return where + text if text.startswith(":") else ".".join(filter(None, (where, text)))
    return f"{where} = {_short(details['input'])} is not allowed; {_advice(details)}"


def _rank(details: ErrorDetails) -> tuple[bool, int]:
    """Sort unknown keys first, since a mistyped key usually causes the other errors; then the
    deepest, since it belongs to the member of a union that matched best."""
    return details["type"] != "extra_forbidden", -len(details["loc"])


def _path(details: ErrorDetails, data: Any) -> list[str | int]:
    """Return the keys and indices of `data` that lead to the error.

    In pydantic's location, names of union members (`Schedule`, `list[...]`) are mixed in, and keys
    of the file may look like them.
    """
    path: list[str | int] = []
    for part in details["loc"]:
        indexed = isinstance(data, list) and isinstance(part, int)
        if indexed or (isinstance(data, dict) and part in data):
            path.append(part)
            data = data[part]
    return [*path, details["loc"][-1]] if details["type"] == "missing" else path


def _known_keys(path: list[str | int], model: type[BaseModel]) -> str:
    """Return advice on what the last key of the path may be instead."""
    is_label = False  # whether the next part is a label from the file, as in `dict[str, Task]`
    for part in path[:-1]:
        field = None if is_label else model.model_fields.get(str(part))
        is_label = field is not None and get_origin(field.annotation) is dict
        model = next(_models(field.annotation), model) if field else model
    return suggest(str(path[-1]), model.model_fields)


def _models(hint: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in a field's type, such as `dict[str, Task]` or `Store | None`."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint
    for part in get_args(hint):
        yield from _models(part)


def _advice(details: ErrorDetails) -> str:
    limits = details.get("ctx", {})
    forms = {
        "greater_than_equal": "use {ge} or more",
        "greater_than": "use more than {gt}",
        "less_than_equal": "use {le} or less",
        "less_than": "use less than {lt}",
        "literal_error": "use {expected}",
        "string_pattern_mismatch": "it must match {pattern}",
    }
    if details["type"] in forms:
        return forms[details["type"]].format(**limits)
    return details["msg"].replace("Input should be", "it should be")


def _short(value: Any) -> str:
    bounded = _BoundedRepr()  # `repr` can make gigabytes of a few nested YAML aliases
    bounded.maxlevel = 3
    bounded.maxstring = bounded.maxlong = bounded.maxother = MAX_VALUE_LENGTH
    try:
        text = bounded.repr(value)
    except ValueError:  # Python does not print numbers of more than 4,300 digits
        text = "a huge number"
    return text if len(text) <= MAX_VALUE_LENGTH else text[: MAX_VALUE_LENGTH - 3] + "..."


class _BoundedRepr(reprlib.Repr):
    """Omits what may be the user and password of an address."""

    def repr_str(self, text: str, level: int) -> str:
        return super().repr_str(re.sub("//.*@", "//…@", text, flags=re.DOTALL), level)
