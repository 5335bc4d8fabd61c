"""`sweepstakes data`: folders of published data, and of generated data in the same formats."""

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
    from trainables.data.check import Checked

_COLUMNS = ("task", "format", "split", "examples", "images", "tokens", "regions")


@click.group()
def data() -> None:
    """Look at published data, or generate some in its formats."""


@data.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True, file_okay=False))
def check(path: Path) -> None:
    """Validate the published files below PATH, and count.

    Every record is read. PATH is what a sweep names as a task's `data`: a folder with `uniter`,
    `lxmert` or `vilt` in it. Exit code 2 if anything is wrong, one line for each finding.
    """
    checked = _checked(path.absolute())
    if checked.counts:
        out.print(_table(checked))
    for finding in checked.findings:
        err.print(f"[red]wrong[/] {escape(finding)}", soft_wrap=True)
    if checked.findings:
        sys.exit(InputError.exit_code)
    out.print(f"{escape(str(path))} is whole", soft_wrap=True)


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--images", default=3000, show_default=True, help="Training scenes.")
@click.option("--difficulty", default=0.1, show_default=True, help="From 0 to 1.")
@click.option("--seed", default=0, show_default=True)
def scenes(folder: Path, images: int, difficulty: float, seed: int) -> None:
    """Generate the data of all tasks, on pictures of shapes.

    FOLDER then holds `uniter`, `lxmert` and `vilt` in the published formats, with a fifth as many
    held-out scenes as training ones. The same options give the same bytes; a folder that has them
    already is left as it is. The default takes 176 MB.
    """
    from trainables.data import scenes as world

    with _bar() as progress:
        new = world.write(
            folder.absolute(),
            images=images,
            difficulty=difficulty,
            seed=seed,
            progress=lambda file, done, total: progress("writing scenes", done, total),
        )
    done = "is written" if new else "holds these scenes already"
    out.print(f"{escape(str(folder))} {done}", soft_wrap=True)


def _checked(path: Path) -> Checked:
    from trainables.data import check as checks

    with _bar() as progress:
        return checks.check(path, progress)


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar on the terminal that starts anew when it is told of something else."""
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

        yield progress


def _table(checked: Checked) -> Table:
    caption = "tokens, regions: the most of a text, of an image"
    table = Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in _COLUMNS[:3] else "right", no_wrap=True)
    for count in checked.counts:
        numbers = (count.examples, count.images, count.longest_text, count.longest_image)
        shown = [f"{number:,}" if number else "" for number in numbers]
        table.add_row(count.task, count.format, count.split, *shown)
    return table
