"""Writing a report: tables, figures and the page, each replaced in one step or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from orchestrator.files import make_folder, replace
from orchestrator.plan.graph import Plan
from orchestrator.report import contents as sections
from orchestrator.report.data import tables
from orchestrator.report.data.verdicts import verdicts
from orchestrator.report.page.page import Page, Section, Table, markdown, render, svg_bytes
from orchestrator.report.page.style import RC
from orchestrator.report.sections import summary
from orchestrator.report.sections.base import Part, find
from orchestrator.report.sections.headline import headline
from orchestrator.report.sections.tickets import tickets
from orchestrator.store.record import Record
from orchestrator.store.ticket import Ticket
from orchestrator.sweep.config import Win

MOST_ROWS = 2000
"""Of a table on the page or in Markdown: with the cells of 100,000 trials the page took 28 MB, more
than browsers open well, and three quarters of the report's time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFiles:
    page: Path
    figures: tuple[Path, ...]
    """PNG files; an SVG of the same name lies beside each."""
    tables: tuple[Path, ...]
    verdicts: pd.DataFrame
    """The verdict table, for `verdict_table`."""
    headline: tuple[str, ...]


def write_report(
    plan: Plan,
    records: Mapping[str, Record],
    fetch_ticket: Callable[[str], Ticket],
    out: Path,
    rule: Win,
    *,
    command: str,
    failures: Mapping[str, str],
) -> ReportFiles:
    """Write `report.html`, `figures/*.png|svg` and `tables/*.md|csv|parquet` under `out`.

    Any part of the plan may lack records; the report says so. `fetch_ticket` gets the hashes of the
    tickets that the overlap and layer figures show, each once. `command` is what the page gives to
    run the sweep again; `failures` maps the keys of failed trials to one line. Raises InputError
    where `out` cannot be written.
    """
    make_folder(out)
    cells = tables.cells(plan, records, failures)
    merged = tables.under_one_name(cells)
    judged = verdicts(merged, rule)
    found = find(merged, tables.labels(plan), rule, judged)
    asked = (
        sections.scores(found),
        sections.initialisations(found),
        sections.pretraining(found),
        sections.transfers(found),
        sections.rewinds(found),
        sections.adversaries(found),
        sections.winners(found),
        tickets(found, fetch_ticket),
        sections.paper(found),
    )
    parts = [part for part in asked if part is not None]
    told, details = headline(judged, rule)
    page = Page(
        name=plan.name,
        headline=told,
        details=details,
        facts=summary.facts(plan, records, failures, judged),
        sections=[*(part.section for part in parts), *_counts(plan, records, merged, judged)],
        environment=summary.environment(records),
        troubles=tuple((key[:12], trouble) for key, trouble in failures.items()),
        command=command,
        latest=max((record.created for record in records.values()), default=""),
    )
    drawn = {one.name: one.figure for section in page.sections for one in section.figures}
    svgs = {name: svg_bytes(figure) for name, figure in drawn.items()}
    for name, figure in drawn.items():
        replace(out / "figures" / f"{name}.svg", svgs[name])
        replace(out / "figures" / f"{name}.png", _png(figure))
    written = _write_tables(out, {"cells": cells, "levels": found.levels}, parts)
    replace(out / "report.html", render(page, svgs).encode())
    return ReportFiles(
        page=out / "report.html",
        figures=tuple(out / "figures" / f"{name}.png" for name in drawn),
        tables=tuple(written),
        verdicts=judged,
        headline=tuple(told),
    )


def _counts(
    plan: Plan, records: Mapping[str, Record], cells: pd.DataFrame, judged: pd.DataFrame
) -> list[Section]:
    """The sections that end every report."""
    every = summary.cell_table(cells.head(MOST_ROWS))
    unfolded = f"{len(plan.cells):,} cells, those without a score included"
    if len(cells) > MOST_ROWS:
        unfolded += f"; here are the first {MOST_ROWS:,}, all are in tables/cells.csv"
    return [
        Section(title="Studies", tables=(summary.study_table(cells, judged),)),
        Section(title="Costs", tables=(summary.cost_table(plan, records),)),
        Section(title="Every cell", folded=((unfolded, every),)),
    ]


def _write_tables(
    out: Path, always: Mapping[str, pd.DataFrame], parts: Sequence[Part]
) -> list[Path]:
    written = []
    for name, table in always.items():
        written += _write_table(out, name, table, ())
    for part in parts:
        for name, table in part.data.items():
            written += _write_table(out, name, table, part.layout.get(name, ()))
    return written


def _write_table(out: Path, name: str, table: pd.DataFrame, layout: Sequence[Table]) -> list[Path]:
    """The tidy table as CSV and Parquet; as Markdown in the layout for people, if it has one."""
    parquet = io.BytesIO()
    table.to_parquet(parquet, index=False)
    text = markdown(layout) if layout else _markdown(table, name)
    contents = {
        "md": text.encode(),
        "csv": table.to_csv(index=False).encode(),
        "parquet": parquet.getvalue(),
    }
    return [replace(out / "tables" / f"{name}.{end}", data) for end, data in contents.items()]


def _markdown(table: pd.DataFrame, name: str) -> str:
    shown: str = table.head(MOST_ROWS).to_markdown(index=False, floatfmt=".6g")
    text = shown + "\n"
    if len(table) > MOST_ROWS:
        text += f"\nThe first {MOST_ROWS:,} of {len(table):,} rows; {name}.csv has all.\n"
    return text


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(RC):
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
