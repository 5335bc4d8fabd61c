"""What the paths of a sweep file depend on at a cluster: environment variables, and files that are
sent along.

`$VLT_DATA/uniter` in a sweep file is expanded where `sweepstakes run` runs. The value on the
submitting machine must therefore be sent along with the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from orchestrator.credentials import SECRET_NAME
from orchestrator.errors import ConfigError
from trainables.data.reference import is_remote

VARIABLE_PATTERN = re.compile(r"\$(?:(\w+)|\{([^}]+)\})", re.ASCII)
"""What `os.path.expandvars` replaces."""
MACHINE_VARIABLES = re.compile(
    r"HOME|HOSTNAME|LOGNAME|PATH|PWD|SHELL|TMPDIR|USER|(LD_|PYTHON|RAY_|SWEEPSTAKES_)\w*"
)
"""Variables that each machine sets itself. Another machine's values would break its processes."""


def sweep_paths(sweep: Path) -> dict[str, str]:
    """Return the paths in a valid sweep file as written, by key. Remote data have none."""
    content = yaml.safe_load(sweep.read_text(encoding="utf-8"))
    models, tasks = content.get("models", {}), content.get("tasks", {})
    placement = content.get("placement", {})
    paths = {f"models.{name}.weights": model.get("weights") for name, model in models.items()}
    paths |= {f"tasks.{name}.data": task.get("data") for name, task in tasks.items()}
    for section in ("models", "tasks", "pruners"):
        entries = content.get(section, {}).items()
        paths |= {f"{section}.{name}.module": entry.get("module") for name, entry in entries}
    paths |= {f"modules[{index}]": path for index, path in enumerate(content.get("modules", []))}
    paths |= {f"placement.{key}": placement.get(key) for key in ("cache", "cluster")}
    return {key: path for key, path in paths.items() if path is not None and not is_remote(path)}


def path_variables(paths: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables in `paths` (by key) with their values on this machine.

    Raises:
        ConfigError: a variable is not set, looks like a secret, or is set by each machine itself.
    """
    values = {}
    for key, path in paths.items():
        for bare, braced in VARIABLE_PATTERN.findall(path):
            name = bare or braced
            if SECRET_NAME.search(name):
                raise ConfigError(
                    f"{key}: ${name} looks like a secret, and secrets are not sent to the cluster;"
                    " use another variable"
                )
            if MACHINE_VARIABLES.fullmatch(name):
                raise ConfigError(
                    f"{key}: ${name} differs between machines; write the path on the cluster, or"
                    " use another variable"
                )
            if name not in os.environ:
                raise ConfigError(
                    f"{key}: ${name} is not set; set it to the value that it has on the cluster"
                )
            values[name] = os.environ[name]
    return values


def is_sent(key: str) -> bool:
    """Return whether the file that a sweep names under `key` is sent to the cluster with the sweep:
    the cluster profile, and the Python files with parts of the user's own."""
    return key == "placement.cluster" or key.endswith(".module") or key.startswith("modules[")


def check_sent_files(paths: Mapping[str, str], folder: Path) -> None:
    """Check that a run in a copy of `folder` on another machine finds the files that are sent.

    Raises:
        ConfigError: one is not a path, relative to `folder`, of a text file in `folder`.
    """
    for key, path in paths.items():
        if is_sent(key):
            _check_sent_file(key, os.path.expandvars(path), folder)


def _check_sent_file(key: str, path: str, folder: Path) -> None:
    is_inside = not path.startswith(("/", "~")) and not os.path.normpath(path).startswith(os.pardir)
    if is_inside and (folder / path).is_file():
        try:
            (folder / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ConfigError(f"{key} = {path!r} is not UTF-8 text; save it as such") from None
        return
    relative = os.path.relpath(os.path.expanduser(path), folder)
    outside = relative.startswith(os.pardir)
    advice = "move the file there and use its relative path" if outside else f"use {relative}"
    raise ConfigError(
        f"{key} = {path!r} is not the path of a file relative to {folder.resolve()},"
        f" the folder that is sent to the cluster; {advice}"
    )
