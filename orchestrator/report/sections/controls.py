"""IMP tickets beside their controls, one sparsity for each column: VLT's Tables 1, 3 and 4."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from orchestrator.plan.graph import DENSE
from orchestrator.report.data import labels as words
from orchestrator.report.data.labels import PAPER
from orchestrator.report.data.tables import COLUMN, Labels, Networks
from orchestrator.report.data.verdicts import RANDOM, judge, meets
from orchestrator.report.page import layout
from orchestrator.report.page.layout import Row
from orchestrator.report.page.page import Entry, Table
from orchestrator.report.sections import published
from orchestrator.sweep.config import Win

LINE = "line"
TABLE = ["model", "recipe", "schedule", "part"]
"""What has a table of its own."""
_KEPT = ["mean", "sd", "n", "planned"]


def controls(levels: pd.DataFrame, networks: Networks, rule: Win) -> pd.DataFrame:
    """One row per table, column and row of it; standard training from theta_0, or the first theta_i
    that IMP tickets start from.

    `source` is `dense`, `line` (the rule's ratio of it) or a source of tickets. All tickets of a
    column are taken at one level: the highest that meets the rule, among those at which the
    study has all its controls and most seeds (its `at`, where it fixes one); where none meets it,
    the level at which IMP scores best. `verdict` says what the rule makes of the ticket there.
    """
    standard = levels[(levels.adversary == "none") & ~levels.source.str.startswith("transfer:")]
    imp = standard[standard.source == "imp"]
    rows: list[dict[str, Any]] = []
    for key, own in imp.groupby([*TABLE, *COLUMN], sort=False):
        named = dict(zip([*TABLE, *COLUMN], key, strict=True))
        first = own[own.rewind == own.rewind.min()]
        network = networks.of(own.iloc[0])
        others = _beside(standard, first)
        rows += _column(named, first, others, network, rule)
    return pd.DataFrame(rows, columns=[*TABLE, *COLUMN, *_COLUMNS])


_COLUMNS = ["adversary", "source", "level", "sparsity", *_KEPT, "verdict"]


def _beside(standard: pd.DataFrame, own: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The other sources of the column, at the same rewind point and of the same study if there."""
    head = own.iloc[0]
    same = standard[standard.source != "imp"]
    for name in ("model", *COLUMN, "recipe", "schedule"):
        same = same[same[name] == head[name]]
    found = {}
    for source, rows in same.groupby("source", sort=False):
        chosen = rows
        for name in ("rewind", "part"):
            alike = chosen[chosen[name] == head[name]]
            chosen = alike if len(alike) else chosen
        found[str(source)] = chosen.drop_duplicates("level")
    return found


def _column(
    named: dict[str, Any],
    own: pd.DataFrame,
    others: dict[str, pd.DataFrame],
    network: pd.Series | None,
    rule: Win,
) -> list[dict[str, Any]]:
    plain = {**named, "adversary": "none", "level": 0, "sparsity": 0.0, "verdict": ""}
    rows: list[dict[str, Any]] = []
    line = None
    if network is not None:
        rows.append({**plain, "source": DENSE, **{name: network[name] for name in _KEPT}})
        line = rule.ratio * network["mean"]
    rows.append({**plain, "source": LINE, "mean": line})
    level = _level(own, others.values(), line, rule)
    for source, curve in [("imp", own), *others.items()]:
        for _, row in curve[curve.level == level].iterrows():
            rows.append(
                {
                    **named,
                    "adversary": "none",
                    "source": source,
                    "level": level,
                    "sparsity": row.planned_sparsity,
                    **{name: row[name] for name in _KEPT},
                    "verdict": judge(row, network, rule),
                }
            )
    return rows


def _level(own: pd.DataFrame, others: Iterable[pd.DataFrame], line: float | None, rule: Win) -> int:
    """The level at which a column is read."""
    most = own[own.planned == own.planned.max()]
    allowed = set(most.level)
    for other in others:
        allowed = allowed & set(other.level) or allowed
    there = own[own.level.isin(allowed)]
    scored = there[there.n > 0]
    if line is None or scored.empty:
        return int(there.level.max())
    winners = scored[(scored.n >= rule.seeds) & meets(scored, line, rule)]
    best = winners.level.max() if len(winners) else scored.level[scored["mean"].idxmax()]
    return int(best)


def tables(controls: pd.DataFrame, rule: Win, labels: Labels) -> list[Table]:
    """The tables as the paper sets them: a row for each source, the paper's own numbers beneath.

    `controls` has the columns of `published.beside` too.
    """
    found = []
    for key, rows in controls.groupby(TABLE, sort=False):
        columns = layout.columns(rows)
        by_place = layout.places(rows, "source")
        imp = [by_place.get(("imp", *column)) for column in columns]
        body: list[list[Entry]] = [["sparsity", *(_sparsity(row, labels) for row in imp)]]
        for source in sorted(rows.source.unique(), key=_rank):
            scores = (by_place.get((source, *column)) for column in columns)
            body.append([_name(source, rule), *(layout.score(row, seeds=True) for row in scores)])
        body.append(["verdict on IMP", *map(_verdict, imp)])
        caption = words.caption(dict(zip(TABLE, key, strict=True)))
        header = ["", *layout.names(columns)]
        found.append(Table(header=header, rows=body, caption=caption))
    return found


_WEIGHTS = ("init", "reinit", "shuffle_within", "shuffle_across")
_ORDER = (DENSE, LINE, "imp", *RANDOM, "omp", *_WEIGHTS)


def _rank(source: str) -> tuple[int, str]:
    kind = source.partition(":")[0]
    return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER)), source


def _name(source: str, rule: Win) -> str:
    if source == DENSE:
        return "dense"
    return words.share_of_dense(rule) if source == LINE else words.source(source)


def _sparsity(row: Row | None, labels: Labels) -> Entry:
    if row is None:
        return words.MISSING
    printed = published.sparsity(row, labels)
    note = "" if printed is None else f"{PAPER} {words.percent(printed)}"
    return layout.entry(words.percent(row["sparsity"]), note)


def _verdict(row: Row | None) -> Entry:
    verdict = words.MISSING if row is None else str(row["verdict"])
    return "misses" if verdict == "none" else verdict
