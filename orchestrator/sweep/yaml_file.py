"""Reading a YAML file into a model: one clear line for everything that can be wrong in it."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.errors import ConfigError, MissingFile

M = TypeVar("M", bound=BaseModel)
SHOWN = 60
"""Characters of a value that an error repeats."""


class _Loader(yaml.SafeLoader):
    """safe_load that reads 2e-3 as a number (YAML 1.2; PyYAML alone makes it a string) and
    refuses a key given twice (PyYAML alone keeps the last in silence)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            problem = ""
            if not isinstance(key, yaml.ScalarNode):
                problem = "a key must be a plain word"
            elif key.value in seen:
                problem = f"`{key.value}` is given twice"
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def load(path: Path, model: type[M], *, kind: str) -> M:
    """Read and validate a file of that kind (`sweep`, `profile`).

    Raises:
        MissingFile, ConfigError: one line each, which opens with the path.
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
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{path}{line}: {problem}; mend the YAML") from None
    except (ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML's own, of `2020-99-99`, of `!!bool maybe`, of a thousand brackets
        raise ConfigError(f"{path}: not YAML ({str(error)[:SHOWN]}); mend it") from None
    if not isinstance(data, dict):
        required = [name for name, field in model.model_fields.items() if field.is_required()]
        least = " and ".join(f"`{name}`" for name in required)
        raise ConfigError(f"{path}: holds no keys; a {kind} needs at least {least}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, model, data)}") from None


def explain(error: ValidationError, model: type[BaseModel], data: dict[Any, Any]) -> str:
    """The first thing wrong in `data`, as `where = value is not allowed; cure`."""
    details = min(error.errors(include_url=False), key=_rank)
    path = _path(details, data)
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    where = "".join(parts).removeprefix(".")
    if details["type"] == "extra_forbidden":
        return f"{where} is not a known key; {_known_keys(path, model)}"
    if details["type"] == "missing":
        return f"{where} is missing; add it"
    if details["type"] == "value_error":  # said by a model of ours, from its own place on
        return ".".join(filter(None, (where, str(details["ctx"]["error"]))))
    return f"{where} = {_short(details['input'])} is not allowed; {_cure(details)}"


def _rank(details: ErrorDetails) -> tuple[bool, int]:
    """Unknown keys first: a mistyped key usually causes the other complaints; then the deepest,
    because of the members of a union it is the one that came nearest."""
    return details["type"] != "extra_forbidden", -len(details["loc"])


def _path(details: ErrorDetails, data: Any) -> list[str | int]:
    """The keys and indices of `data` that lead to the place: pydantic has its own names of union
    members (`Schedule`, `list[...]`) among them, which a file's names may be alike."""
    path: list[str | int] = []
    for part in details["loc"]:
        indexed = isinstance(data, list) and isinstance(part, int)
        if indexed or (isinstance(data, dict) and part in data):
            path.append(part)
            data = data[part]
    return [*path, details["loc"][-1]] if details["type"] == "missing" else path


def _known_keys(path: list[str | int], model: type[BaseModel]) -> str:
    """What the last key of the path may be instead."""
    named = False  # whether the next part is a name of the file's own, as in `dict[str, Task]`
    for part in path[:-1]:
        field = None if named else model.model_fields.get(str(part))
        named = field is not None and get_origin(field.annotation) is dict
        model = next(_models(field.annotation), model) if field else model
    valid = list(model.model_fields)
    near = difflib.get_close_matches(str(path[-1]), valid, n=1)
    return f"did you mean `{near[0]}`?" if near else f"use one of {', '.join(valid)}"


def _models(hint: Any) -> Iterator[type[BaseModel]]:
    """The models that a field's type is made of: `dict[str, Task]`, `Store | None`."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint
    for part in get_args(hint):
        yield from _models(part)


def _cure(details: ErrorDetails) -> str:
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
    bounded = _Bounded()  # of a few aliases of aliases, `repr` makes gigabytes
    bounded.maxlevel = 3
    bounded.maxstring = bounded.maxlong = bounded.maxother = SHOWN
    try:
        text = bounded.repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        text = "a huge number"
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


class _Bounded(reprlib.Repr):
    """Leaves out what may be the user and the password of an address."""

    def repr_str(self, text: str, level: int) -> str:
        return super().repr_str(re.sub("//.*@", "//…@", text, flags=re.DOTALL), level)
