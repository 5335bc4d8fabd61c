"""What the sections of the page are made from, and what they are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from orchestrator.report.data import figure_groups as families
from orchestrator.report.data import tables
from orchestrator.report.data.figure_groups import Family
from orchestrator.report.data.tables import Labels, Networks
from orchestrator.report.page.page import Section, Table
from orchestrator.sweep.config import Win


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What every section is made from."""

    cells: pd.DataFrame
    levels: pd.DataFrame
    networks: Networks
    verdicts: pd.DataFrame
    labels: Labels
    rule: Win
    families: list[Family]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A section and the tables that are written as files beside the page."""

    section: Section
    data: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Name -> tidy table."""
    layout: Mapping[str, list[Table]] = field(default_factory=dict)
    """Name -> the tables as people read them, for the Markdown file."""


def find(cells: pd.DataFrame, labels: Labels, rule: Win, judged: pd.DataFrame) -> Findings:
    by_level = tables.levels(cells)
    return Findings(
        cells=cells,
        levels=by_level,
        networks=tables.networks(cells),
        verdicts=judged,
        labels=labels,
        rule=rule,
        families=families.families(by_level),
    )


def slug(*parts: object) -> str:
    """A file name that says what all the parts say."""
    text = "-".join(str(part) for part in parts if str(part)).lower()
    return re.sub(r"-+", "-", "".join(c if c.isalnum() or c in "._" else "-" for c in text))
