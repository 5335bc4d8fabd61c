"""Found tickets and their controls, at one sparsity per column: VLT's Tables 1, 3 and 4."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from orchestrator.plan.graph import DENSE
from orchestrator.report.data import formatting, sources
from orchestrator.report.data.formatting import PAPER
from orchestrator.report.data.tables import SCORE_KEY, DenseNetworks, Labels
from orchestrator.report.data.verdicts import level_verdict, meets_line
from orchestrator.report.page import layout
from orchestrator.report.page.layout import Row
from orchestrator.report.page.page import Table, TableEntry
from orchestrator.report.sections import published
from orchestrator.sources.names import find_source, main_sources
from orchestrator.sweep.config import Win

LINE = "line"
"""Source of the row that shows the rule's ratio of the dense score."""
_TABLE_KEY = ["model", "recipe", "schedule", "variant"]
"""Columns that identify a table."""
_KEPT = ["mean", "sd", "n", "planned"]


def control_scores(levels: pd.DataFrame, networks: DenseNetworks, rule: Win) -> pd.DataFrame:
    """Return one row per row and column of every table.

    Only standard training counts, from theta_0 or else the first theta_i that the column's
    reference tickets start from: the first by rank of the sources that find tickets, IMP if the
    column has it. `source` is `dense`, `line` (the rule's ratio of it) or a source of tickets. All
    tickets of a column are taken at one level: the highest that meets the rule, among those with
    all controls and the most seeds (the study's `score_levels`, if it sets them). If none meets the
    rule, it is the level at which the reference scores best. `verdict` is the rule's verdict at
    that level.
    """
    transferred = sources.is_transferred(levels.source)
    standard = levels[(levels.adversary == "none") & ~transferred]
    main = main_sources(standard.source)
    found = standard[standard.source.isin(main)]
    rank = found.source.map({source: i for i, source in enumerate(main)})
    column = [found[name] for name in ("model", "recipe", "schedule", *SCORE_KEY)]
    reference = found[rank == rank.groupby(column).transform("min")]
    rows: list[dict[str, Any]] = []
    for key, curves in reference.groupby([*_TABLE_KEY, *SCORE_KEY], sort=False):
        named = dict(zip([*_TABLE_KEY, *SCORE_KEY], key, strict=True))
        first = curves[curves.rewind == curves.rewind.min()]
        network = networks.find(curves.iloc[0])
        others = _other_sources(standard, first)
        rows += _column(named, first, others, network, rule)
    return pd.DataFrame(rows, columns=[*_TABLE_KEY, *SCORE_KEY, *_COLUMNS])


_COLUMNS = ["adversary", "source", "level", "sparsity", *_KEPT, "verdict"]


def _other_sources(standard: pd.DataFrame, curve: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the column's other sources, with the same rewind point and variant if they exist."""
    reference = curve.iloc[0]
    same = standard[standard.source != reference.source]
    for name in ("model", *SCORE_KEY, "recipe", "schedule"):
        same = same[same[name] == reference[name]]
    others = {}
    for source, rows in same.groupby("source", sort=False):
        chosen = rows
        for name in ("rewind", "variant"):
            alike = chosen[chosen[name] == reference[name]]
            chosen = alike if len(alike) else chosen
        others[str(source)] = chosen.drop_duplicates("level")
    return others


def _column(
    named: dict[str, Any],
    reference: pd.DataFrame,
    others: dict[str, pd.DataFrame],
    network: pd.Series | None,
    rule: Win,
) -> list[dict[str, Any]]:
    defaults = {**named, "adversary": "none", "level": 0, "sparsity": 0.0, "verdict": ""}
    rows: list[dict[str, Any]] = []
    line = None
    if network is not None:
        rows.append({**defaults, "source": DENSE, **{name: network[name] for name in _KEPT}})
        line = rule.ratio * network["mean"]
    rows.append({**defaults, "source": LINE, "mean": line})
    level = _level(reference, others.values(), line, rule)
    for source, curve in [(reference.source.iloc[0], reference), *others.items()]:
        for _, row in curve[curve.level == level].iterrows():
            rows.append(
                {
                    **named,
                    "adversary": "none",
                    "source": source,
                    "level": level,
                    "sparsity": row.planned_sparsity,
                    **{name: row[name] for name in _KEPT},
                    "verdict": level_verdict(row, network, rule),
                }
            )
    return rows


def _level(
    reference: pd.DataFrame, others: Iterable[pd.DataFrame], line: float | None, rule: Win
) -> int:
    """Return the level whose scores a column shows."""
    most_seeds = reference[reference.planned == reference.planned.max()]
    allowed = set(most_seeds.level)
    for other in others:
        allowed = allowed & set(other.level) or allowed
    candidates = reference[reference.level.isin(allowed)]
    scored = candidates[candidates.n > 0]
    if line is None or scored.empty:
        return int(candidates.level.max())
    winners = scored[(scored.n >= rule.seeds) & meets_line(scored, line, rule)]
    best = winners.level.max() if len(winners) else scored.level[scored["mean"].idxmax()]
    return int(best)


def tables(controls: pd.DataFrame, rule: Win, labels: Labels) -> list[Table]:
    """Return tables as in the paper: a row for each source, with the paper's numbers below ours.

    `controls` has been through `published.add_published_scores`.
    """
    formatted = []
    for key, rows in controls.groupby(_TABLE_KEY, sort=False):
        columns = layout.score_columns(rows)
        by_key = layout.rows_by_key(rows, "source")
        main = references(rows)
        found = [
            next((by_key[source, *column] for source in main if (source, *column) in by_key), None)
            for column in columns
        ]
        names = dict.fromkeys(formatting.source_name(row["source"]) for row in found if row)
        body: list[list[TableEntry]] = [["sparsity", *(_sparsity(row, labels) for row in found)]]
        for source in sorted(rows.source.unique(), key=_rank):
            scores = (by_key.get((source, *column)) for column in columns)
            body.append(
                [_name(source, rule), *(layout.score_entry(row, seeds=True) for row in scores)]
            )
        body.append([f"verdict on {' or '.join(names)}", *map(_verdict, found)])
        caption = formatting.table_caption(dict(zip(_TABLE_KEY, key, strict=True)))
        header = ["", *layout.column_names(columns)]
        formatted.append(Table(header=header, rows=body, caption=caption))
    return formatted


def references(controls: pd.DataFrame) -> list[str]:
    """Return the sources, by rank, of which the first that a column has is its reference."""
    return main_sources(controls.source[controls.source != LINE])


def _rank(source: str) -> tuple[int, str]:
    return 1 if source == LINE else find_source(source).entry.rank, source


def _name(source: str, rule: Win) -> str:
    return formatting.share_of_dense(rule) if source == LINE else formatting.source_name(source)


def _sparsity(row: Row | None, labels: Labels) -> TableEntry:
    if row is None:
        return formatting.MISSING
    printed = published.published_sparsity(row, labels)
    note = "" if printed is None else f"{PAPER} {formatting.percent(printed)}"
    return layout.table_entry(formatting.percent(row["sparsity"]), note)


def _verdict(row: Row | None) -> TableEntry:
    verdict = formatting.MISSING if row is None else str(row["verdict"])
    return "misses" if verdict == "none" else verdict
