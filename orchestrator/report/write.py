"""Write a report: its tables, figures and page, each replaced atomically."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from orchestrator.errors import NotWritable
from orchestrator.files import make_folder, write_atomic
from orchestrator.plan.graph import Plan
from orchestrator.report import contents
from orchestrator.report.data import tables
from orchestrator.report.data.verdicts import curve_verdicts
from orchestrator.report.page.page import Page, Section, Table, render_page, svg_bytes, to_markdown
from orchestrator.report.page.style import RC
from orchestrator.report.sections import summary
from orchestrator.report.sections.base import SectionPart, build_report_data
from orchestrator.report.sections.headline import headline
from orchestrator.store.record import Record
from orchestrator.store.ticket import Ticket
from orchestrator.sweep.config import Win

MAX_TABLE_ROWS = 2000
"""Rows of a table on the page or in Markdown. With the cells of 100,000 trials the page took 28 MB,
more than browsers handle well, and three quarters of the report's time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFiles:
    page: Path
    figures: tuple[Path, ...]
    """PNG files; each has an SVG of the same name next to it."""
    tables: tuple[Path, ...]
    verdicts: pd.DataFrame
    """The verdict table, for `verdict_table`."""
    headline: tuple[str, ...]


@contextmanager
def _advice_if_not_writable() -> Iterator[None]:
    try:
        yield
    except NotWritable as error:
        raise NotWritable(
            f"{error}; the results are in the store: `sweepstakes report SWEEP --out FOLDER` writes"
            " the report to another folder"
        ) from error


@_advice_if_not_writable()
def write_report(
    plan: Plan,
    records: Mapping[str, Record],
    fetch_ticket: Callable[[str], Ticket],
    out: Path,
    rule: Win,
    *,
    command: str,
    failures: Mapping[str, str],
    skipped: Collection[str] = (),
    mlflow: str = "",
) -> ReportFiles:
    """Write `report.html`, `figures/*.png|svg` and `tables/*.md|csv|parquet` under `out`.

    Any part of the plan may lack records; the report shows what is missing. `fetch_ticket` is
    called once for the hash of each ticket that the overlap and layer figures show. `command` is
    shown on the page as the way to run the sweep again. `failures` maps the keys of failed trials
    to a one-line error. `skipped` are the keys of trials that the sweep's strategy does not want.
    `mlflow` is a link to the curves in MLflow, or empty. Raises InputError if `out` cannot
    be written.
    """
    make_folder(out)
    cells = tables.cell_scores(plan, records, failures, skipped)
    merged = tables.unify_recipe_names(cells)
    verdicts = curve_verdicts(merged, rule)
    labels = tables.sweep_labels(plan)
    data = build_report_data(merged, labels, rule, verdicts, fetch_ticket)
    parts = [part for section in contents.SECTIONS if (part := section(data)) is not None]
    sentences, details = headline(verdicts, rule)
    page = Page(
        name=plan.name,
        headline=sentences,
        details=details,
        facts=summary.facts(plan, records, failures, verdicts, skipped),
        sections=[
            *(part.section for part in parts),
            *_closing_sections(plan, records, merged, verdicts),
        ],
        environment=summary.environment_values(records),
        failures=tuple((k[:12], error) for k, error in failures.items() if k not in skipped),
        command=command,
        mlflow=mlflow,
        latest_record=max((record.created_at for record in records.values()), default=""),
    )
    figures = {
        figure.name: figure.figure for section in page.sections for figure in section.figures
    }
    svgs = {name: svg_bytes(figure) for name, figure in figures.items()}
    for name, figure in figures.items():
        write_atomic(out / "figures" / f"{name}.svg", svgs[name])
        write_atomic(out / "figures" / f"{name}.png", _png(figure))
    written = _write_tables(out, {"cells": cells, "levels": data.levels}, parts)
    write_atomic(out / "report.html", render_page(page, svgs).encode())
    return ReportFiles(
        page=out / "report.html",
        figures=tuple(out / "figures" / f"{name}.png" for name in figures),
        tables=tuple(written),
        verdicts=verdicts,
        headline=tuple(sentences),
    )


def _closing_sections(
    plan: Plan, records: Mapping[str, Record], cells: pd.DataFrame, verdicts: pd.DataFrame
) -> list[Section]:
    """Return the sections that end every report."""
    table = summary.cell_table(cells.head(MAX_TABLE_ROWS))
    summary_line = f"{len(plan.cells):,} cells, including those without a score"
    if len(cells) > MAX_TABLE_ROWS:
        summary_line += f"; the first {MAX_TABLE_ROWS:,} are shown, all are in tables/cells.csv"
    return [
        Section(title="Studies", tables=(summary.study_table(cells, verdicts),)),
        Section(title="Costs", tables=(summary.cost_table(plan, records),)),
        Section(title="All cells", folded=((summary_line, table),)),
    ]


def _write_tables(
    out: Path, common: Mapping[str, pd.DataFrame], parts: Sequence[SectionPart]
) -> list[Path]:
    written = []
    for name, table in common.items():
        written += _write_table(out, name, table, ())
    for part in parts:
        for name, table in part.tidy.items():
            written += _write_table(out, name, table, part.formatted.get(name, ()))
    return written


def _write_table(
    out: Path, name: str, table: pd.DataFrame, formatted: Sequence[Table]
) -> list[Path]:
    """Write a table as CSV, Parquet and Markdown; Markdown has the formatted tables, if any."""
    parquet = io.BytesIO()
    table.to_parquet(parquet, index=False)
    text = to_markdown(formatted) if formatted else _markdown(table, name)
    files = {
        "md": text.encode(),
        "csv": table.to_csv(index=False).encode(),
        "parquet": parquet.getvalue(),
    }
    return [
        write_atomic(out / "tables" / f"{name}.{suffix}", data) for suffix, data in files.items()
    ]


def _markdown(table: pd.DataFrame, name: str) -> str:
    rows: str = table.head(MAX_TABLE_ROWS).to_markdown(index=False, floatfmt=".6g")
    text = rows + "\n"
    if len(table) > MAX_TABLE_ROWS:
        text += f"\nThe first {MAX_TABLE_ROWS:,} of {len(table):,} rows; {name}.csv has all.\n"
    return text


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(RC):
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
