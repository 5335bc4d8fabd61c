"""Shared by the commands: consoles, exit codes, arguments, and access to a sweep and its store."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
from rich.console import Console

from orchestrator.api import workspace
from orchestrator.api.workspace import Connections, PlannedSweep
from orchestrator.sweep.config import Placement, Sweep

PIPE_WIDTH = 10_000
"""Columns if the output is a pipe or a file, so that no line is cut or wrapped at 80."""
out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False)

EXIT_INCOMPLETE, EXIT_INPUT, EXIT_INTERRUPTED = 1, 2, 130

SWEEP = click.argument("sweep", type=click.Path(path_type=Path))
KEY = click.argument("key")
STORE_OF = click.option(
    "--sweep",
    type=click.Path(path_type=Path),
    help="Sweep file whose store is used, and whose own models and kinds of tickets are known."
    " Default: the local store of this machine.",
)


def read_sweep(path: Path, home: Path, *, offline: bool = False) -> PlannedSweep:
    """Read and plan a sweep file. New data are hashed, at about 1 GB/s."""
    with err.status("reading the sweep, its weights and its data"):
        return workspace.plan_sweep(path, home, offline=offline)


@contextmanager
def open_store(sweep: PlannedSweep, home: Path, *, tracking: bool) -> Iterator[Connections]:
    """Open the store of a sweep, and with `tracking` its MLflow server."""
    with ExitStack() as stack:
        with err.status("opening the store"):
            connection = workspace.connect(sweep.config.placement, home, tracking=tracking)
            connections = stack.enter_context(connection)
        yield connections


def placement_of(sweep: Path | None) -> Placement:
    """Return the placement of a sweep file; without one, that of the local store."""
    return Sweep.from_file(sweep).placement if sweep else Placement()
