"""The verdicts of a report as a table in the terminal."""

from __future__ import annotations

from rich.table import Table

from orchestrator.cli.shared import out
from orchestrator.report.data.formatting import verdict_table
from orchestrator.report.write import ReportFiles

MAX_VERDICTS = 16
"""Rows of the verdict table in a terminal. With more rows, only the headline is printed."""
VERDICT_COLUMNS = ("schedule", "model, task", "tickets", "relaxed to", "dense")
"""Columns that a terminal shows, besides the scores at the sparsity of the best ticket."""
THERE = " there"


def print_verdicts(files: ReportFiles) -> None:
    """Print the verdict table if it fits, and the headline. The report page has all rows."""
    header, rows = verdict_table(files.verdicts)
    if len(rows) <= MAX_VERDICTS:
        _print_table(header, rows)
    for sentence in files.headline:
        out.print(sentence)
    out.print()


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    indices = [
        index
        for index, name in enumerate(header)
        if name in VERDICT_COLUMNS or name.endswith(THERE)
    ]
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for index in indices:
        name = header[index].removesuffix(THERE).replace("relaxed to", "wins to")
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*(row[index].split(" (")[0] for index in indices))
    out.print(table)
    out.print()
