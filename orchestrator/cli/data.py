"""`sweepstakes data`: check folders of published data, and generate data in the same formats."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from orchestrator.cli.shared import err, out
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from trainables.data.check import CheckResult

_COLUMNS = ("task", "format", "split", "examples", "images", "tokens", "regions")


@click.group()
def data() -> None:
    """Check published data, or generate data in the same formats."""


@data.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True, file_okay=False))
def check(path: Path) -> None:
    """Validate and count the published files in PATH.

    PATH is what a sweep file names as a task's `data`: a folder that contains `uniter`, `lxmert`,
    `vilt` or the files of another format. Every record is read. Each problem is printed as one
    line; if there are any, the exit code is 2.
    """
    checked = _check_folder(path.absolute())
    if checked.counts:
        out.print(_table(checked))
    for finding in checked.findings:
        err.print(f"[red]invalid[/] {escape(finding)}", soft_wrap=True)
    if checked.findings:
        sys.exit(InputError.exit_code)
    out.print(f"{escape(str(path))} is valid", soft_wrap=True)


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--images", default=3000, show_default=True, help="Number of training scenes.")
@click.option("--difficulty", default=0.1, show_default=True, help="From 0 to 1.")
@click.option("--seed", default=0, show_default=True, help="Random seed.")
def scenes(folder: Path, images: int, difficulty: float, seed: int) -> None:
    """Generate data for all tasks, from images of shapes.

    FOLDER then contains `uniter`, `lxmert` and `vilt` in the published formats. There are a fifth
    as many held-out scenes as training scenes. The same options give the same bytes; a folder that
    already has them is left unchanged. The default size is 176 MB.
    """
    from trainables.data import scenes

    with _progress_bar() as progress:
        written = scenes.write_scenes(
            folder.absolute(),
            images=images,
            difficulty=difficulty,
            seed=seed,
            progress=lambda file, done, total: progress("writing scenes", done, total),
        )
    state = "is written" if written else "already contains these scenes"
    out.print(f"{escape(str(folder))} {state}", soft_wrap=True)


def _check_folder(path: Path) -> CheckResult:
    from trainables.data.check import check_folder

    with _progress_bar() as progress:
        return check_folder(path, progress)


@contextmanager
def _progress_bar() -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress bar on the terminal that is reset when the description changes."""
    columns = (
        TextColumn("{task.description}"),
        *(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        bar = bars.add_task("", total=None)
        last = ""

        def progress(description: str, done: int, total: int | None) -> None:
            nonlocal last
            if description != last:
                bars.reset(bar, description=escape(description), total=total)
                last = description
            bars.update(bar, completed=done, total=total)

        yield progress


def _table(checked: CheckResult) -> Table:
    caption = "tokens, regions: maximum of a text, of an image"
    table = Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in _COLUMNS[:3] else "right", no_wrap=True)
    for count in checked.counts:
        numbers = (count.examples, count.images, count.longest_text, count.longest_image)
        cells = [f"{number:,}" if number else "" for number in numbers]
        table.add_row(count.task, count.format, count.split, *cells)
    return table
