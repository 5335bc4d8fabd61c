"""Adversarial and standard training with the same kind of tickets: VLT's Table 5, Figure 5."""

from __future__ import annotations

from typing import Any

import pandas as pd

from orchestrator.report.data import formatting
from orchestrator.report.data.tables import CURVE_KEY, SCORE_KEY
from orchestrator.report.page import layout
from orchestrator.report.page.layout import Row
from orchestrator.report.page.page import Table, TableEntry
from orchestrator.sources.names import find_source

_TABLE_KEY = ["model", "source", "schedule", "rewind", "variant"]
_POINT = [*_TABLE_KEY, "level", *SCORE_KEY]
_KEPT = ["mean", "sd", "n", "planned"]
_COLUMNS = [*_POINT, "sparsity", "recipe", "adversary", *_KEPT, "gain", "same_ticket"]


def adversarial_scores(cells: pd.DataFrame, levels: pd.DataFrame) -> pd.DataFrame:
    """Return one row per adversarial recipe, curve, level and column.

    A row for the matching standard training precedes it if the sweep has one. `gain` is the
    adversarial mean minus the standard one. `same_ticket` is whether both use the same tickets
    (Table 5) or each uses those of its own chain (Figure 5).
    """
    prune_trials = cells.groupby([*CURVE_KEY, "level"], sort=False).prune_trial.agg(frozenset)
    standard = levels[levels.adversary == "none"]
    rows: list[dict[str, Any]] = []
    for _, row in levels[levels.adversary != "none"].iterrows():
        partner = _partner(standard, row)
        kept = [*_POINT, "recipe", "adversary", *_KEPT]
        result: dict[str, Any] = {name: row[name] for name in kept}
        result |= {"sparsity": row.planned_sparsity, "same_ticket": False}
        if partner is not None:
            ours, theirs = (
                prune_trials[tuple(side[[*CURVE_KEY, "level"]])] for side in (row, partner)
            )
            gain = row["mean"] - partner["mean"]
            result |= {"gain": gain, "same_ticket": bool(ours & theirs)}
            standard_values = {name: partner[name] for name in kept if name != "variant"}
            rows.append({**result, **standard_values, "gain": None})
        rows.append(result)
    table = pd.DataFrame(rows, columns=_COLUMNS).astype({"gain": float})
    return table.drop_duplicates([*_POINT, "recipe"], ignore_index=True)


def _partner(standard: pd.DataFrame, row: pd.Series) -> pd.Series | None:
    """Return the standard training to compare an adversarial row with; None if there is none."""
    same = standard
    for name in _POINT:
        same = same[same[name] == row[name]] if name != "variant" else same
    if same.empty:
        return None
    rank = (same.recipe != "default").astype(int) * 2 + (same.variant != row.variant).astype(int)
    return same.loc[rank.idxmin()]


def tables(adversarial: pd.DataFrame) -> list[Table]:
    """Return tables with a row for each sparsity and recipe, as in Table 5.

    `adversarial` has been through `published.add_published_scores`.
    """
    formatted = []
    for key, rows in adversarial.groupby(_TABLE_KEY, sort=False):
        columns = layout.score_columns(rows)
        by_key = layout.rows_by_key(rows, "level", "recipe")
        order = rows.assign(attacked=rows.adversary != "none").sort_values(["level", "attacked"])
        body: list[list[TableEntry]] = []
        for line in order.drop_duplicates(["level", "recipe"]).itertuples():
            scores = (by_key.get((line.level, line.recipe, *c)) for c in columns)
            name = f"{line.recipe} ({_training(line.adversary)})"
            body.append([formatting.percent(line.sparsity), name, *map(_score, scores)])
        named = dict(zip(_TABLE_KEY, key, strict=True))
        tickets = "the same tickets" if rows.same_ticket.all() else "tickets of their own chains"
        caption = (
            f"{_tickets(named['source'])}: {formatting.table_caption(named)}; both use {tickets}"
        )
        header = ["sparsity", "recipe", *layout.column_names(columns)]
        formatted.append(Table(header=header, rows=body, text_columns=2, caption=caption))
    return formatted


def _tickets(source: str) -> str:
    name = formatting.source_name(source)
    transferred = find_source(source).entry.figure == "transfer"
    return f"Tickets {name}" if transferred else f"{name} tickets"


def _training(adversary: str) -> str:
    return "standard" if adversary == "none" else f"adversary: {adversary}"


def _score(row: Row | None) -> TableEntry:
    gain = None if row is None else row["gain"]
    return layout.score_entry(row, remark="" if pd.isna(gain) else f" ({gain:+.2f})")
