"""Read a sweep file."""

from __future__ import annotations

from pathlib import Path

from orchestrator.sweep.config import Sweep
from orchestrator.sweep.yaml_file import load_yaml


def load_sweep(path: Path) -> Sweep:
    """Read and validate a sweep file.

    Raises:
        MissingFile, ConfigError: one line that begins with the path.
    """
    return load_yaml(path, Sweep, kind="sweep")
