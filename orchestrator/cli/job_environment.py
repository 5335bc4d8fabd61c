"""What a sweep's paths need to be the same on a cluster: their variables, and its profile.

`$VLT_DATA/uniter` in a sweep file is resolved where `sweepstakes run` runs, so the value that the
submitter gave has to travel with the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from orchestrator.credentials import SECRET_NAME
from orchestrator.errors import ConfigError

VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]+)\})", re.ASCII)
"""What `os.path.expandvars` replaces."""
OWN = re.compile(
    r"HOME|HOSTNAME|LOGNAME|PATH|PWD|SHELL|TMPDIR|USER|(LD_|PYTHON|RAY_|SWEEPSTAKES_)\w*"
)
"""What each machine sets for itself: to give it another's value would break what runs there."""


def locations(sweep: Path) -> dict[str, str]:
    """The paths in a valid sweep file as they are written, by key."""
    content = yaml.safe_load(sweep.read_text(encoding="utf-8"))
    models, tasks = content.get("models", {}), content.get("tasks", {})
    placement = content.get("placement", {})
    found = {f"models.{name}.weights": model.get("weights") for name, model in models.items()}
    found |= {f"tasks.{name}.data": task.get("data") for name, task in tasks.items()}
    found |= {f"placement.{key}": placement.get(key) for key in ("cache", "cluster")}
    return {key: path for key, path in found.items() if path is not None}


def variables(written: Mapping[str, str]) -> dict[str, str]:
    """The environment variables in paths by key, with their values here.

    Raises:
        ConfigError: one is not set, looks like a secret, or is every machine's own.
    """
    found = {}
    for key, path in written.items():
        for bare, braced in VARIABLE.findall(path):
            name = bare or braced
            if SECRET_NAME.search(name):
                raise ConfigError(
                    f"{key}: ${name} is named like a secret, and those do not travel; use another"
                )
            if OWN.fullmatch(name):
                raise ConfigError(
                    f"{key}: ${name} is another on each machine; write the path on the cluster, or"
                    " use another variable"
                )
            if name not in os.environ:
                raise ConfigError(
                    f"{key}: ${name} is not set; give it the value that it has on the cluster"
                )
            found[name] = os.environ[name]
    return found


def check_profile(written: Mapping[str, str], folder: Path) -> None:
    """That `placement.cluster` is found by a run in a copy of `folder`, somewhere else.

    Raises:
        ConfigError: it is not the path from there of a file in there.
    """
    if "placement.cluster" not in written:
        return
    path = os.path.expandvars(written["placement.cluster"])
    travels = not path.startswith(("/", "~")) and not os.path.normpath(path).startswith(os.pardir)
    if travels and (folder / path).is_file():
        return
    here = os.path.relpath(os.path.expanduser(path), folder)
    cure = "move it there and name it so" if here.startswith(os.pardir) else f"use {here}"
    raise ConfigError(
        f"placement.cluster = {path!r} is not the path of a file from {folder.resolve()}, which is"
        f" what travels; {cure}"
    )
