"""What the commands share: where they print, how they end, how they read a sweep and its store."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
from rich.console import Console

from orchestrator.api import workspace
from orchestrator.api.workspace import Connected, Planned

WIDE = 10_000
"""Columns where nobody looks on: in a pipe or a file no line is cut or broken at 80."""
out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False)

EXIT_INCOMPLETE, EXIT_INPUT, EXIT_INTERRUPTED = 1, 2, 130

SWEEP = click.argument("sweep", type=click.Path(path_type=Path))
KEY = click.argument("key")


def finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Callback of an option that is a number: click's ranges let NaN through."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no finite number.")
    return value


def planned(sweep: Path, home: Path, *, offline: bool = False) -> Planned:
    """The plan of a sweep file; data is hashed when it is first met, at about 1 GB/s."""
    with err.status("reading the sweep, its weights and its data"):
        return workspace.planned(sweep, home, offline=offline)


@contextmanager
def opened(planned: Planned, home: Path, *, tracking: bool) -> Iterator[Connected]:
    """The store of a sweep, with a word on what is being waited for."""
    with ExitStack() as stack:
        with err.status("opening the store"):
            placement = planned.sweep.placement
            found = stack.enter_context(workspace.connected(placement, home, tracking=tracking))
        yield found
