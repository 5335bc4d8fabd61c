"""Reading a sweep file: one clear line for everything that can be wrong in it."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.config import (
    Model,
    Placement,
    Pretraining,
    RecipeChanges,
    Schedule,
    Store,
    Study,
    Sweep,
    Task,
    Win,
)
from orchestrator.errors import ConfigError, MissingFile


class _Loader(yaml.SafeLoader):
    """safe_load that reads 2e-3 as a number (YAML 1.2; PyYAML alone makes it a string) and
    refuses a key given twice (PyYAML alone keeps the last in silence)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"`{key.value}` is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def load(path: Path) -> Sweep:
    """Read and validate a sweep file; MissingFile or ConfigError, one line each."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MissingFile(f"{path}: cannot be read ({error.strerror}); give a sweep file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; give a sweep file") from None
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{path}{line}: {problem}; mend the YAML") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds no keys; a sweep needs at least `name` and `studies`")
    try:
        return Sweep.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """The first thing wrong, as `where = value is not allowed; cure`."""
    details = min(error.errors(include_url=False), key=_rank)
    where = _where(details)
    if details["type"] == "extra_forbidden":
        return _unknown_key(where, details)
    if details["type"] == "missing":
        return f"{where} is missing; add it"
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


_SECTIONS: dict[str, type[BaseModel]] = {
    "models": Model,
    "pretrained_by": Pretraining,
    "tasks": Task,
    "recipes": RecipeChanges,
    "studies": Study,
    "schedule": Schedule,
    "win": Win,
    "placement": Placement,
    "store": Store,
}


def _unknown_key(where: str, details: ErrorDetails) -> str:
    parents = [part for part in details["loc"][:-1] if part in _SECTIONS]
    valid = list((_SECTIONS[str(parents[-1])] if parents else Sweep).model_fields)
    near = difflib.get_close_matches(str(details["loc"][-1]), valid, n=1)
    cure = f"did you mean `{near[0]}`?" if near else f"use one of {', '.join(valid)}"
    return f"{where} is not a known key; {cure}"


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
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
