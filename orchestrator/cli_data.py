"""`sweepstakes data`: published data folders."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from orchestrator.errors import InputError

if TYPE_CHECKING:
    from trainables.data.check import Checked

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_COLUMNS = ("task", "format", "split", "examples", "images", "longest text", "longest image")


@click.group()
def data() -> None:
    """Look at published data."""


@data.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True, file_okay=False))
def check(path: Path) -> None:
    """Read all published files below PATH, count what they hold, say what is wrong with them.

    PATH is what a sweep names as a task's `data`: a folder with `uniter`, `lxmert` or `vilt` in
    it. Exit code 2 if anything is wrong, one line for each finding.
    """
    checked = _checked(path.absolute())
    if checked.counts:
        out.print(_table(checked))
    for finding in checked.findings:
        err.print(f"[red]wrong[/] {escape(finding)}", soft_wrap=True)
    if checked.findings:
        sys.exit(InputError.exit_code)
    out.print(f"{path} is whole")


def _checked(path: Path) -> Checked:
    from trainables.data import check as checks

    columns = (
        TextColumn("{task.description}"),
        *(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        bar = bars.add_task("", total=None)
        last = ""

        def progress(what: str, done: int, total: int | None) -> None:
            nonlocal last
            if what != last:
                bars.reset(bar, description=escape(what), total=total)
                last = what
            bars.update(bar, completed=done, total=total)

        return checks.check(path, progress)


def _table(checked: Checked) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in _COLUMNS[:3] else "right", no_wrap=True)
    for count in checked.counts:
        numbers = (count.examples, count.images, count.longest_text, count.longest_image)
        shown = [f"{number:,}" if number else "" for number in numbers]
        table.add_row(count.task, count.format, count.split, *shown)
    return table
