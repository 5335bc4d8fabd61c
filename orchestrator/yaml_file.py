"""Reading a YAML file into a model: one clear line for everything that can be wrong in it."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

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
        raise ConfigError(f"{path}: {explain(error, model)}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing wrong, as `where = value is not allowed; cure`."""
    details = min(error.errors(include_url=False), key=_rank)
    where = _where(details)
    if details["type"] == "extra_forbidden":
        return _unknown_key(where, details, model)
    if details["type"] == "missing":
        return f"{where} is missing; add it"
    if details["type"] == "value_error":  # said by a model of ours, from its own place on
        return ".".join(filter(None, (where, str(details["ctx"]["error"]))))
    return f"{where} = {_short(details['input'])} is not allowed; {_cure(details)}"


def _rank(details: ErrorDetails) -> tuple[bool, int]:
    """Unknown keys first: a mistyped key usually causes the other complaints; then the deepest,
    because of the members of a union it is the one that came nearest."""
    return details["type"] != "extra_forbidden", -len(details["loc"])


def _where(details: ErrorDetails) -> str:
    """The key's path; pydantic's names of union members (`Schedule`, `list[...]`) are dropped."""
    path = ""
    for part in details["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part[:1].islower() and not part.startswith(_UNION_MEMBERS):
            path += f".{part}" if path else part
    return path


_UNION_MEMBERS = ("list[", "constrained-", "literal[", "int", "str", "float", "bool")


def _unknown_key(where: str, details: ErrorDetails, model: type[BaseModel]) -> str:
    for part in details["loc"][:-1]:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models(model.model_fields[part].annotation), model)
    valid = list(model.model_fields)
    near = difflib.get_close_matches(str(details["loc"][-1]), valid, n=1)
    cure = f"did you mean `{near[0]}`?" if near else f"use one of {', '.join(valid)}"
    return f"{where} is not a known key; {cure}"


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
    bounded = reprlib.Repr()  # of a few aliases of aliases, `repr` makes gigabytes
    bounded.maxlevel = 3
    bounded.maxstring = bounded.maxlong = bounded.maxother = SHOWN
    try:
        text = bounded.repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        text = "a huge number"
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
