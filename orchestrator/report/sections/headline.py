"""The result of a sweep in sentences, computed from the verdicts, with any warnings they need."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from orchestrator.report.data import formatting
from orchestrator.report.data.tables import PROBLEM_KEY
from orchestrator.sources.names import comparison_sources, find_source, main_sources
from orchestrator.sweep.config import Win

_MAX_SENTENCES = 3


def headline(verdicts: pd.DataFrame, rule: Win) -> tuple[list[str], list[str]]:
    """Return (headline, details).

    The headline has one sentence per problem and source of found tickets: what they reach, compared
    with dense networks and controls. If there are more than three, it has one sentence per model
    and source, and the sentences on the problems are the details.
    """
    main = main_sources(verdicts.source)
    found = verdicts[verdicts.source.isin(main)]
    controls = comparison_sources(verdicts.source)
    several = len(main) > 1
    sentences = [
        _problem_sentence(group, rule, controls, several)
        for _, group in found.groupby([*PROBLEM_KEY, "source"], sort=False)
    ]
    if len(sentences) <= _MAX_SENTENCES:
        return sentences, []
    return [
        _model_sentence(model, group, rule, several)
        for (model, _), group in found.groupby(["model", "source"], sort=False)
    ], sentences


def _model_sentence(model: str, found: pd.DataFrame, rule: Win, several: bool) -> str:
    problems, noun = found.groupby(PROBLEM_KEY, sort=False), find_source(found.source.iloc[0]).noun
    relaxed = problems.relaxed.max()
    decided = problems.verdict.agg(lambda verdict: (verdict != "undecided").any())
    open_cells = int(found.open.sum())
    unscored = f" Not scored yet: {formatting.plural(open_cells, 'cell')}." if open_cells else ""
    columns = formatting.plural(len(relaxed), "column")
    if not decided.any():
        requirement = f"the rule requires {formatting.describe_rule(rule)}"
        of = f" of {noun}" if several else ""
        return f"{model}: no verdict yet on {columns}{of}; {requirement}.{unscored}"
    won = relaxed.dropna()
    line = f"{100 * rule.ratio:.4g} % of the dense score"
    text = f"{model}: {noun} reach {line} on {len(won)} of {columns}"
    if len(won) and won.min() == won.max():
        text += f", at {formatting.percent(won.max())} sparsity"
    elif len(won):
        lowest, highest = (
            formatting.column_name(dict(zip(PROBLEM_KEY, key, strict=True)))
            for key in (won.idxmin(), won.idxmax())
        )
        text += (
            f", from {formatting.percent(won.min())} sparsity ({lowest})"
            f" to {formatting.percent(won.max())} ({highest})"
        )
    undecided = int((~decided).sum())
    if undecided:
        verb = "has" if undecided == 1 else "have"
        text += f"; {undecided} {verb} too few seeds for a verdict"
    return f"{text}.{unscored}"


def _problem_sentence(
    group: pd.DataFrame, rule: Win, controls: Sequence[str], several: bool
) -> str:
    """Return what the tickets of one source reach in one problem."""
    row = group.iloc[0]
    source = find_source(row.source)
    problem = f"{formatting.problem_name(row)}: "
    open_cells = int(group.open.sum())
    unscored = f" Not scored yet: {open_cells} of these cells." if open_cells else ""
    if (group.verdict == "undecided").all():
        requirement = f"the rule requires {formatting.describe_rule(rule)}"
        of = f" on {source.noun}" if several else ""
        return f"{problem}no verdict yet{of}; {requirement}.{unscored}"
    dense = f"the dense score of {formatting.mean_sd(row.dense_mean, row.dense_sd)}"
    if group.relaxed.isna().all():
        return f"{problem}no {source.label} ticket reaches {rule.ratio:.4g} × {dense}.{unscored}"
    best = group.sort_values(["relaxed", "score_mean"]).dropna(subset="relaxed").iloc[-1]
    deepest = ", the deepest level run" if best.relaxed == best.deepest else ""
    text = (
        f"{problem}{source.noun} reach {100 * rule.ratio:.4g} % of {dense} at up to"
        f" {formatting.percent(best.relaxed)} sparsity{deepest}."
    )
    text += _scores(best, controls)
    if pd.notna(best.prior):
        text += f" A baseline without the image scores {formatting.number(best.prior)}."
    return text + unscored


def _scores(best: pd.Series, controls: Sequence[str]) -> str:
    """Return the winner's score and those of the controls at its sparsity.

    A warning follows if a control reaches the line too.
    """
    score = formatting.mean_sd(best.score_mean, best.score_sd)
    scores = [f"tickets from {formatting.theta(best.rewind)} score {score}"]
    scores += [
        f"{find_source(control).noun}"
        f" {formatting.mean_sd(best[f'{control}_mean'], best[f'{control}_sd'])}"
        for control in controls
        if pd.notna(best[f"{control}_mean"])
    ]
    listed = " and ".join(part for part in (", ".join(scores[:-1]), scores[-1]) if part)
    text = f" At that sparsity, {listed}."
    reaching = [control for control in controls if best[f"{control}_mean"] >= best.line]
    return " ".join([text, *dict.fromkeys(map(_warning, reaching))])


def _warning(control: str) -> str:
    source = find_source(control)
    noun = source.noun[:1].upper() + source.noun[1:]
    return source.entry.warning or (
        f"{noun} also reach the line, so it does not distinguish winning tickets here."
    )
