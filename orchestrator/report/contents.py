"""The sections of the page, each with its figures, tables and the tidy data behind them.

A section about something that the sweep does not have is None.
"""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup

from orchestrator.report.data import labels as words
from orchestrator.report.data.figure_groups import Family, Kind
from orchestrator.report.page import figures
from orchestrator.report.page.page import Drawn, Section, words_first
from orchestrator.report.sections import (
    adversarial,
    controls,
    published,
    rewinding,
    transfer,
    transfer_figures,
    universal,
)
from orchestrator.report.sections.base import Findings, Part, slug

_ROWS_SHOWN = 24
"""A longer table of verdicts is folded; of adversarial scores, one of half as many."""


def _figures(found: Findings, kind: Kind) -> list[Drawn]:
    drawn = []
    for family in found.families:
        if family.kind != kind:
            continue
        figure = figures.score_figure(family, found.networks, found.rule)
        rewind = f"theta{family.rewind}" if family.rewind else ""
        problems = family.rows.panel.unique()
        task = problems[0] if len(problems) == 1 else ""
        name = slug(kind, family.model, task, family.schedule, rewind)
        drawn.append(Drawn(name=name, figure=figure, caption=_figure_caption(family)))
    return drawn


_CAPTIONS: dict[Kind, str] = {
    "score": "IMP tickets and their controls of the same size",
    "weights": "The same IMP tickets on other weights",
    "transfer": "Tickets of every task on each task",
    "rewinding": "IMP tickets that restart from θᵢ",
    "adversarial": "Adversarial training (solid) beside standard training (dashed)",
}


def _figure_caption(family: Family) -> str:
    open_cells = int((family.rows.planned - family.rows.n).sum())
    told = [f"{_CAPTIONS[family.kind]}; {family.model}, {family.schedule}"]
    if family.rewind:
        told.append(f"from {words.theta(family.rewind)}")
    if open_cells:
        told.append(f"{words.count(open_cells, 'cell')} without a score (×: seeds lack)")
    return "; ".join(told) + "."


def scores(found: Findings) -> Part | None:
    drawn = _figures(found, "score")
    if not drawn:
        return None
    note = (
        "Lines are means over the seeds, shades run from the lowest to the highest seed. The grey"
        " band is the dense network: its mean, one standard deviation, and all of its seeds."
    )
    return Part(section=Section(title="Score against sparsity", note=note, figures=drawn))


def initialisations(found: Findings) -> Part | None:
    tidy = controls.controls(found.levels, found.networks, found.rule)
    if tidy.empty:
        return None
    tidy = published.beside(tidy, found.labels)
    shown = controls.tables(tidy, found.rule, found.labels)
    note = Markup(
        "Each column at one sparsity: the highest level that meets the rule, of those with all"
        " controls and most seeds; where none does, the level at which IMP scores best. Mean ±"
        " standard deviation (seeds). <b>Bold</b> tickets meet the rule: {rule}.{paper}"
    ).format(rule=words.win(found.rule), paper=_paper_note(tidy.published_mean))
    section = Section(
        title="Tickets and their controls",
        note=note,
        figures=_figures(found, "weights"),
        tables=shown,
    )
    return Part(section=section, data={"controls": tidy}, layout={"controls": shown})


def pretraining(found: Findings) -> Part | None:
    tidy = universal.universal(found.levels, found.networks, found.rule, found.labels)
    if tidy.empty:
        return None
    averages = universal.average_drops(tidy, found.labels)
    averages = published.drops_beside(averages, found.labels)
    tidy = published.beside(tidy, found.labels)
    shown = universal.tables(tidy, averages)
    note = Markup(
        "“Mean drop” is the unweighted mean, over all columns, of what is lost of the dense score;"
        " it waits until every column has its score. <b>Bold</b> scores meet the rule.{}"
    ).format(_paper_note(tidy.published_mean))
    return Part(
        section=Section(title="Tickets from pre-training", note=note, tables=shown),
        data={"universal": tidy, "universal_drops": averages},
        layout={"universal": shown},
    )


def transfers(found: Findings) -> Part | None:
    tidy = transfer.transfer(found.levels, found.networks, found.rule, found.labels)
    drawn = _figures(found, "transfer")
    if tidy.empty:
        return None
    large, small, shown = [], [], []
    for _, matrix in tidy.groupby(transfer.MATRIX, sort=False):
        rows = transfer.tickets(matrix, found.labels)
        told = words.caption(matrix.iloc[0].to_dict())
        if not matrix.n.sum():
            continue
        level = transfer.chosen_level(matrix, found.verdicts)
        shown.append(transfer.table(matrix, level, found.labels))
        share = words.percent(matrix.sparsity[matrix.level == level].iloc[0])
        figure = transfer_figures.matrix_figure(matrix, rows, level, f"Transfer at {share}")
        large.append(Drawn(name=slug("matrix", told), figure=figure, caption=f"{told}."))
        if matrix["level"].nunique() > 1:
            figure = transfer_figures.levels_figure(matrix, rows, "Transfer at every sparsity")
            small.append(Drawn(name=slug("matrices", told), figure=figure, caption=f"{told}."))
    note = Markup(
        "Rows are the tasks that tickets come from, columns the tasks that wear them. Empty tiles"
        " are not scored. In the table, <b>bold</b> scores meet the rule."
    )
    section = Section(
        title="Transfer between tasks",
        note=note,
        figures=[*large, *small, *drawn],
        folded=[(f"Scores: {table.caption}", table) for table in shown],
    )
    return Part(section=section, data={"transfer": tidy}, layout={"transfer": shown})


def rewinds(found: Findings) -> Part | None:
    shown, drawn = rewinding.tables(found.levels), _figures(found, "rewinding")
    if not shown:
        return None
    note = "IMP tickets that restart from θᵢ, the weights after i steps of the dense run."
    section = Section(title="Rewinding", note=note, figures=drawn, tables=shown)
    return Part(section=section)


def adversaries(found: Findings) -> Part | None:
    tidy = adversarial.adversarial(found.cells, found.levels)
    if tidy.empty:
        return None
    tidy = published.beside(tidy, found.labels)
    shown = adversarial.tables(tidy)
    short = [table for table in shown if len(table.rows) <= _ROWS_SHOWN // 2]
    note = "In parentheses: what adversarial training adds to the standard score at that sparsity."
    section = Section(
        title="Adversarial training",
        note=note + _paper_note(tidy.published_mean),
        figures=_figures(found, "adversarial"),
        tables=short,
        folded=[(table.caption, table) for table in shown if table not in short],
    )
    return Part(section=section, data={"adversarial": tidy}, layout={"adversarial": shown})


def _paper_note(printed: pd.Series) -> str:
    if printed.isna().all():
        return ""
    return f" {words.PAPER}: what the paper printed for the same cell, on the official data."


def winners(found: Findings) -> Part:
    header, rows = words.verdict_table(found.verdicts)
    table = words_first(header, rows, header.index("verdict") + 1)
    note = Markup(
        "Rule: <b>{}</b>. “Winning” asks the same with a ratio of 1. “Unbroken” is the sparsity up"
        " to which every level meets the rule. Scores are mean ± standard deviation over seeds, the"
        " number of seeds in parentheses; “there” is the relaxed winner’s sparsity."
    ).format(words.win(found.rule))
    folded = len(rows) > _ROWS_SHOWN
    section = Section(
        title="Winning tickets",
        note=note,
        tables=() if folded else (table,),
        folded=((f"{len(rows)} curves", table),) if folded else (),
    )
    return Part(section=section, data={"verdicts": found.verdicts})


def paper(found: Findings) -> Part | None:
    shown = published.tables(found.labels)
    if not shown:
        return None
    section = Section(
        title="The paper’s numbers",
        note=f"As printed by {words.PAPER}: {published.TITLE}.",
        folded=[(table.caption, table) for table in shown],
    )
    return Part(section=section)
