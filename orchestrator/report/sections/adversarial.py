"""Adversarial against standard training under the same kind of tickets: VLT's Table 5, Figure 5."""

from __future__ import annotations

from typing import Any

import pandas as pd

from orchestrator.report.data import labels as words
from orchestrator.report.data.tables import COLUMN, CURVE
from orchestrator.report.page import layout
from orchestrator.report.page.layout import Row
from orchestrator.report.page.page import Entry, Table

TABLE = ["model", "source", "schedule", "rewind", "part"]
_POINT = [*TABLE, "level", *COLUMN]
_KEPT = ["mean", "sd", "n", "planned"]
_COLUMNS = [*_POINT, "sparsity", "recipe", "adversary", *_KEPT, "gain", "same_ticket"]


def adversarial(cells: pd.DataFrame, levels: pd.DataFrame) -> pd.DataFrame:
    """One row per adversarial recipe, curve, level and column, and one for the standard training
    beside it, where the sweep has that.

    `gain` is the adversarial mean less the standard one. `same_ticket` says whether both wear the
    same tickets (Table 5), or each those of its own chain (Figure 5).
    """
    cuts = cells.groupby([*CURVE, "level"], sort=False).cut.agg(frozenset)
    standard = levels[levels.adversary == "none"]
    found: list[dict[str, Any]] = []
    for _, row in levels[levels.adversary != "none"].iterrows():
        partner = _partner(standard, row)
        kept = [*_POINT, "recipe", "adversary", *_KEPT]
        own: dict[str, Any] = {name: row[name] for name in kept}
        own |= {"sparsity": row.planned_sparsity, "same_ticket": False}
        if partner is not None:
            places = [tuple(side[[*CURVE, "level"]]) for side in (row, partner)]
            worn = [cuts[place] for place in places]
            own |= {"gain": row["mean"] - partner["mean"], "same_ticket": bool(worn[0] & worn[1])}
            beside = {name: partner[name] for name in kept if name != "part"}
            found.append({**own, **beside, "gain": None})
        found.append(own)
    table = pd.DataFrame(found, columns=_COLUMNS).astype({"gain": float})
    return table.drop_duplicates([*_POINT, "recipe"], ignore_index=True)


def _partner(standard: pd.DataFrame, row: pd.Series) -> pd.Series | None:
    same = standard
    for name in _POINT:
        same = same[same[name] == row[name]] if name != "part" else same
    if same.empty:
        return None
    rank = (same.recipe != "default").astype(int) * 2 + (same.part != row.part).astype(int)
    return same.loc[rank.idxmin()]


def tables(adversarial: pd.DataFrame) -> list[Table]:
    """A row for each sparsity and recipe, as in Table 5; with the columns of `published.beside`."""
    found = []
    for key, rows in adversarial.groupby(TABLE, sort=False):
        columns = layout.columns(rows)
        by_place = layout.places(rows, "level", "recipe")
        order = rows.assign(hostile=rows.adversary != "none").sort_values(["level", "hostile"])
        body: list[list[Entry]] = []
        for line in order.drop_duplicates(["level", "recipe"]).itertuples():
            found_here = (by_place.get((line.level, line.recipe, *c)) for c in columns)
            name = f"{line.recipe} ({_training(line.adversary)})"
            body.append([words.percent(line.sparsity), name, *map(_score, found_here)])
        named = dict(zip(TABLE, key, strict=True))
        whose = "the same tickets" if rows.same_ticket.all() else "tickets of their own chains"
        caption = f"{_tickets(named['source'])}: {words.caption(named)}; both wear {whose}"
        header = ["sparsity", "recipe", *layout.names(columns)]
        found.append(Table(header=header, rows=body, words=2, caption=caption))
    return found


def _tickets(source: str) -> str:
    name = words.source(source)
    return f"Tickets {name}" if source.startswith("transfer:") else f"{name} tickets"


def _training(adversary: str) -> str:
    return "standard" if adversary == "none" else f"adversary: {adversary}"


def _score(row: Row | None) -> Entry:
    gain = None if row is None else row["gain"]
    return layout.score(row, remark="" if pd.isna(gain) else f" ({gain:+.2f})")
