"""Writing a report: tables, figures and the page, each replaced in one step or not at all."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from orchestrator.config import Win
from orchestrator.plan import Plan
from orchestrator.report import figures, overlap, summary, tables, ticket_figures, words
from orchestrator.report.page import Page, Shown, inline, render, svg_bytes, words_first
from orchestrator.report.style import RC
from orchestrator.report.verdicts import verdicts
from orchestrator.store.record import Record
from orchestrator.store.ticket import Ticket


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFiles:
    page: Path
    figures: tuple[Path, ...]
    """PNG files; an SVG of the same name lies beside each."""
    tables: tuple[Path, ...]
    verdicts: pd.DataFrame
    """The verdict table, for `verdict_table`."""
    headline: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Drawn:
    name: str
    figure: Figure
    caption: str


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
    run the sweep again; `failures` maps the keys of failed trials to one line.
    """
    cells = tables.cells(plan, records, failures)
    judged = verdicts(cells, rule)
    by_level = tables.levels(cells)
    curves = _draw_curves(by_level, tables.dense(cells), rule)
    tickets, overlaps = _draw_tickets(cells, judged, fetch_ticket)
    drawn = [*curves, *tickets]
    svgs = {one.name: svg_bytes(one.figure) for one in drawn}

    def shown(several: list[_Drawn]) -> tuple[Shown, ...]:
        return tuple(
            Shown(svg=inline(svgs[one.name], one.name), caption=one.caption) for one in several
        )

    headline = tuple(words.headline(judged, rule))
    header, rows = words.verdict_table(judged)
    page = Page(
        name=plan.name,
        rule=words.win(rule),
        headline=headline,
        facts=summary.facts(plan, records, failures, judged),
        curves=shown(curves),
        verdicts=words_first(header, rows, header.index("verdict") + 1),
        tickets=shown(tickets),
        overlaps=summary.overlap_table(overlaps),
        costs=summary.cost_table(plan, records),
        environment=summary.environment(records),
        cells=summary.cell_table(cells),
        troubles=tuple((key[:12], trouble) for key, trouble in failures.items()),
        command=command,
        latest=max((record.created for record in records.values()), default=""),
    )
    named = {"cells": cells, "levels": by_level, "verdicts": judged, "overlaps": overlaps}
    written = [path for name, table in named.items() for path in _write_table(out, name, table)]
    for one in drawn:
        _replace(out / "figures" / f"{one.name}.svg", svgs[one.name])
        _replace(out / "figures" / f"{one.name}.png", _png(one.figure))
    _replace(out / "report.html", render(page).encode())
    return ReportFiles(
        page=out / "report.html",
        figures=tuple(out / "figures" / f"{one.name}.png" for one in drawn),
        tables=tuple(written),
        verdicts=judged,
        headline=headline,
    )


def _draw_curves(levels: pd.DataFrame, dense: pd.DataFrame, rule: Win) -> list[_Drawn]:
    bases = {tuple(row[tables.PROBLEM]): row for _, row in dense.iterrows()}
    drawn = []
    for key, group in levels.groupby([*tables.PROBLEM, "schedule"], sort=False):
        base = bases[key[: len(tables.PROBLEM)]]
        if not group.n.sum() + base.n:
            continue
        several = figures.score_figures(group, base, rule)
        for i, figure in enumerate(several):
            name = _slug("score", *key, *([i] if len(several) > 1 else []))
            seeds = f"{int(base.n)} of {int(base.planned)} dense seeds"
            open_cells = int((group.planned - group.n).sum())
            caption = f"Study {group.study.iloc[0]}; {seeds}"
            caption += (
                f"; {words.count(open_cells, 'cell')} without a score (×: seeds lack)."
                if open_cells
                else "."
            )
            drawn.append(_Drawn(name=name, figure=figure, caption=caption))
    return drawn


def _draw_tickets(
    cells: pd.DataFrame, judged: pd.DataFrame, fetch_ticket: Callable[[str], Ticket]
) -> tuple[list[_Drawn], pd.DataFrame]:
    drawn, tables_ = [], [overlap.overlaps({}).assign(model="", sparsity=0.0)]
    for model, chosen in overlap.choose(cells, judged).items():
        bits = overlap.fetch(chosen, fetch_ticket)
        pairs = overlap.overlaps(bits)
        sparsity = float(chosen.planned_sparsity.iloc[0])
        tables_.append(pairs.assign(model=model, sparsity=sparsity))
        title = f"{model} at {words.percent(sparsity)} sparsity"
        drawn.append(
            _Drawn(
                name=_slug("overlap", model),
                figure=ticket_figures.overlap_figure(pairs, f"Overlap of tickets, {title}"),
                caption="Names: source of the ticket, weights it was cut from, seed (s0, s1 …).",
            )
        )
        own = [row.label for row in chosen.itertuples() if row.source == "imp"]
        if own:
            layers = overlap.layers({label: bits[label] for label in own})
            drawn.append(
                _Drawn(
                    name=_slug("layers", model),
                    figure=ticket_figures.layers_figure(layers, f"Where IMP prunes, {title}"),
                    caption=f"Mean of {len(own)} IMP tickets: {', '.join(own)}.",
                )
            )
    return drawn, pd.concat(tables_, ignore_index=True)


def _slug(*parts: object) -> str:
    text = "-".join(str(part) for part in parts if str(part))
    return "".join(c if c.isalnum() or c in "._" else "-" for c in text.lower())


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(RC):
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _write_table(out: Path, name: str, table: pd.DataFrame) -> list[Path]:
    parquet = io.BytesIO()
    table.to_parquet(parquet, index=False)
    contents = {
        "md": table.to_markdown(index=False, floatfmt=".6g").encode() + b"\n",
        "csv": table.to_csv(index=False).encode(),
        "parquet": parquet.getvalue(),
    }
    return [_replace(out / "tables" / f"{name}.{end}", data) for end, data in contents.items()]


def _replace(path: Path, data: bytes) -> Path:
    """Write beside the target, then rename: a reader sees the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(scratch).chmod(0o644)  # mkstemp makes 0600, and a report is for others to read
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    return path
