"""Reading a sweep file."""

from __future__ import annotations

from pathlib import Path

from orchestrator.sweep import yaml_file
from orchestrator.sweep.config import Sweep


def load(path: Path) -> Sweep:
    """Read and validate a sweep file; MissingFile or ConfigError, one line each."""
    return yaml_file.load(path, Sweep, kind="sweep")
