"""Sections of the page, each with its figures, its tables and the tidy data behind them.

A section is a function of the report's data; it returns None if the sweep has no data for it. To
add one, write `report/sections/NAME.py` with such a function and add it to `SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from markupsafe import Markup

from orchestrator.report.data import formatting
from orchestrator.report.data.figure_groups import FigureGroup, FigureKind
from orchestrator.report.data.sources import tickets_of
from orchestrator.report.page import figures
from orchestrator.report.page.page import PageFigure, Section, make_table
from orchestrator.report.sections import (
    adversarial,
    controls,
    published,
    rewinding,
    transfer,
    transfer_figures,
    universal,
)
from orchestrator.report.sections.base import ReportData, SectionPart, slug
from orchestrator.report.sections.tickets import tickets_section

_MAX_UNFOLDED_ROWS = 24
"""Longer tables of verdicts are folded; tables of adversarial scores, above half of that."""


def _figures(data: ReportData, kind: FigureKind) -> list[PageFigure]:
    drawn = []
    for group in data.figure_groups:
        if group.kind != kind:
            continue
        figure = figures.score_figure(group, data.networks, data.rule)
        rewind = f"theta{group.rewind}" if group.rewind else ""
        problems = group.rows.panel.unique()
        task = problems[0] if len(problems) == 1 else ""
        name = slug(kind, group.model, task, group.schedule, rewind)
        drawn.append(PageFigure(name=name, figure=figure, caption=_figure_caption(group)))
    return drawn


_CAPTIONS: dict[FigureKind, str] = {
    "score": "{tickets} and their controls of the same size",
    "weights": "The same {tickets} on other weights",
    "transfer": "Tickets of every task on each task",
    "rewinding": "{tickets} rewound to θᵢ",
    "adversarial": "Adversarial training (solid) and standard training (dashed)",
}


def _figure_caption(group: FigureGroup) -> str:
    open_cells = int((group.rows.planned - group.rows.n).sum())
    about = _CAPTIONS[group.kind].format(tickets=tickets_of(group.rows.source))
    parts = [f"{about}; {group.model}, {group.schedule}"]
    if group.rewind:
        parts.append(f"from {formatting.theta(group.rewind)}")
    if open_cells:
        parts.append(f"{formatting.plural(open_cells, 'cell')} without a score (×: missing seeds)")
    return "; ".join(parts) + "."


def scores_section(data: ReportData) -> SectionPart | None:
    drawn = _figures(data, "score")
    if not drawn:
        return None
    note = (
        "Lines are means over seeds; shading spans the lowest to the highest seed. The grey"
        " band is the dense network: its mean, one standard deviation, and its range over seeds."
    )
    return SectionPart(section=Section(title="Score against sparsity", note=note, figures=drawn))


def controls_section(data: ReportData) -> SectionPart | None:
    tidy = controls.control_scores(data.levels, data.networks, data.rule)
    if tidy.empty:
        return None
    tidy = published.add_published_scores(tidy, data.labels)
    formatted = controls.tables(tidy, data.rule, data.labels)
    note = Markup(
        "Each column shows one sparsity: the highest level that meets the rule, among those with"
        " all controls and the most seeds. If none meets it, the column shows the level at which"
        " {tickets} scores best. Scores are mean ± standard deviation (number of seeds)."
        " <b>Bold</b> tickets meet the rule: {rule}.{paper}"
    ).format(
        tickets=" or ".join(map(formatting.source_name, controls.references(tidy))),
        rule=formatting.describe_rule(data.rule),
        paper=_paper_note(tidy.published_mean),
    )
    section = Section(
        title="Tickets and their controls",
        note=note,
        figures=_figures(data, "weights"),
        tables=formatted,
    )
    return SectionPart(section=section, tidy={"controls": tidy}, formatted={"controls": formatted})


def pretraining_section(data: ReportData) -> SectionPart | None:
    tidy = universal.universal_scores(data.levels, data.networks, data.rule, data.labels)
    if tidy.empty:
        return None
    averages = universal.average_drops(tidy, data.labels)
    averages = published.add_published_drops(averages, data.labels)
    tidy = published.add_published_scores(tidy, data.labels)
    formatted = universal.tables(tidy, averages)
    note = Markup(
        "“Mean drop” is the unweighted mean, over all columns, of the loss relative to the dense"
        " score; it is shown once every column has its score. <b>Bold</b> scores meet the rule.{}"
    ).format(_paper_note(tidy.published_mean))
    return SectionPart(
        section=Section(title="Tickets from pre-training", note=note, tables=formatted),
        tidy={"universal": tidy, "universal_drops": averages},
        formatted={"universal": formatted},
    )


def transfer_section(data: ReportData) -> SectionPart | None:
    tidy = transfer.transfer_scores(data.levels, data.networks, data.rule, data.labels)
    drawn = _figures(data, "transfer")
    if tidy.empty:
        return None
    large, small, formatted = [], [], []
    for _, matrix in tidy.groupby(transfer.MATRIX_KEY, sort=False):
        rows = transfer.ticket_order(matrix, data.labels)
        caption = formatting.table_caption(matrix.iloc[0].to_dict())
        if not matrix.n.sum():
            continue
        level = transfer.choose_level(matrix, data.verdicts)
        formatted.append(transfer.score_table(matrix, level, data.labels))
        share = formatting.percent(matrix.sparsity[matrix.level == level].iloc[0])
        figure = transfer_figures.matrix_figure(matrix, rows, level, f"Transfer at {share}")
        large.append(PageFigure(name=slug("matrix", caption), figure=figure, caption=f"{caption}."))
        if matrix["level"].nunique() > 1:
            figure = transfer_figures.levels_figure(matrix, rows, "Transfer at every sparsity")
            small.append(
                PageFigure(name=slug("matrices", caption), figure=figure, caption=f"{caption}.")
            )
    note = Markup(
        "Rows are the tasks that tickets come from, columns the tasks they are applied to. Empty"
        " tiles have no score. In the table, <b>bold</b> scores meet the rule."
    )
    section = Section(
        title="Transfer between tasks",
        note=note,
        figures=[*large, *small, *drawn],
        folded=[(f"Scores: {table.caption}", table) for table in formatted],
    )
    return SectionPart(section=section, tidy={"transfer": tidy}, formatted={"transfer": formatted})


def rewinding_section(data: ReportData) -> SectionPart | None:
    formatted, drawn = rewinding.tables(data.levels), _figures(data, "rewinding")
    if not formatted:
        return None
    tickets = tickets_of(rewinding.rewound(data.levels).source)
    note = f"{tickets} rewound to θᵢ, the weights after i steps of the dense run."
    section = Section(title="Rewinding", note=note, figures=drawn, tables=formatted)
    return SectionPart(section=section)


def adversarial_section(data: ReportData) -> SectionPart | None:
    tidy = adversarial.adversarial_scores(data.cells, data.levels)
    if tidy.empty:
        return None
    tidy = published.add_published_scores(tidy, data.labels)
    formatted = adversarial.tables(tidy)
    short = [table for table in formatted if len(table.rows) <= _MAX_UNFOLDED_ROWS // 2]
    note = "In parentheses: adversarial minus standard score at the same sparsity."
    section = Section(
        title="Adversarial training",
        note=note + _paper_note(tidy.published_mean),
        figures=_figures(data, "adversarial"),
        tables=short,
        folded=[(table.caption, table) for table in formatted if table not in short],
    )
    return SectionPart(
        section=section, tidy={"adversarial": tidy}, formatted={"adversarial": formatted}
    )


def _paper_note(published_mean: pd.Series) -> str:
    if published_mean.isna().all():
        return ""
    return f" {formatting.PAPER}: the paper’s score for the same cell, on the official data."


def verdicts_section(data: ReportData) -> SectionPart:
    header, rows = formatting.verdict_table(data.verdicts)
    table = make_table(header, rows, header.index("verdict") + 1)
    note = Markup(
        "Rule: <b>{}</b>. “Winning” is the same rule with a ratio of 1. “Unbroken” is the sparsity"
        " up to which every level meets the rule. Scores are mean ± standard deviation over seeds,"
        " with the number of seeds in parentheses; “there” means at the relaxed winner’s sparsity."
    ).format(formatting.describe_rule(data.rule))
    folded = len(rows) > _MAX_UNFOLDED_ROWS
    section = Section(
        title="Winning tickets",
        note=note,
        tables=() if folded else (table,),
        folded=((f"{len(rows)} curves", table),) if folded else (),
    )
    return SectionPart(section=section, tidy={"verdicts": data.verdicts})


def published_section(data: ReportData) -> SectionPart | None:
    formatted = published.tables(data.labels)
    if not formatted:
        return None
    section = Section(
        title="The paper’s numbers",
        note=f"As printed by {formatting.PAPER}: {published.PAPER_TITLE}.",
        folded=[(table.caption, table) for table in formatted],
    )
    return SectionPart(section=section)


SECTIONS: tuple[Callable[[ReportData], SectionPart | None], ...] = (
    scores_section,
    controls_section,
    pretraining_section,
    transfer_section,
    rewinding_section,
    adversarial_section,
    verdicts_section,
    tickets_section,
    published_section,
)
"""The sections of a report in their order; sections on studies, costs and cells follow."""
