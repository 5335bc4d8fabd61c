"""Data that all sections share, and the form in which they return their content."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from orchestrator.report.data import tables
from orchestrator.report.data.figure_groups import FigureGroup, figure_groups
from orchestrator.report.data.tables import DenseNetworks, Labels
from orchestrator.report.page.page import Section, Table
from orchestrator.store.ticket import Ticket
from orchestrator.sweep.config import Win


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData:
    """Input of every section."""

    cells: pd.DataFrame
    """`tables.cell_scores`, with the recipe names of `tables.unify_recipe_names`."""
    levels: pd.DataFrame
    """`tables.level_scores` of `cells`."""
    networks: DenseNetworks
    verdicts: pd.DataFrame
    """`verdicts.curve_verdicts` of `cells`."""
    labels: Labels
    rule: Win
    figure_groups: list[FigureGroup]
    fetch_ticket: Callable[[str], Ticket]
    """Returns the ticket with this hash."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SectionPart:
    """A section, and the tables that are written as files next to the page."""

    section: Section
    tidy: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Name -> tidy table."""
    formatted: Mapping[str, list[Table]] = field(default_factory=dict)
    """Name -> the formatted tables, for the Markdown file."""


def build_report_data(
    cells: pd.DataFrame,
    labels: Labels,
    rule: Win,
    verdicts: pd.DataFrame,
    fetch_ticket: Callable[[str], Ticket],
) -> ReportData:
    by_level = tables.level_scores(cells)
    return ReportData(
        cells=cells,
        levels=by_level,
        networks=tables.dense_networks(cells),
        verdicts=verdicts,
        labels=labels,
        rule=rule,
        figure_groups=figure_groups(by_level),
        fetch_ticket=fetch_ticket,
    )


def slug(*parts: object) -> str:
    """Join the parts to a file name."""
    text = "-".join(str(part) for part in parts if str(part)).lower()
    return re.sub(r"-+", "-", "".join(c if c.isalnum() or c in "._" else "-" for c in text))
