"""The result of a sweep in sentences, computed from the verdicts, with any warnings they need."""

from __future__ import annotations

import pandas as pd

from orchestrator.report.data import formatting
from orchestrator.report.data.tables import PROBLEM_KEY
from orchestrator.report.data.verdicts import RANDOM_SOURCES
from orchestrator.sweep.config import Win

_MAX_SENTENCES = 3


def headline(verdicts: pd.DataFrame, rule: Win) -> tuple[list[str], list[str]]:
    """Return (headline, details).

    The headline has one sentence per problem: what its own IMP tickets reach, compared with dense
    networks and random tickets. If there are more than three, it has one sentence per model, and
    the sentences on the problems are the details.
    """
    imp = verdicts[verdicts.source == "imp"]
    sentences = [
        _problem_sentence(group, rule) for _, group in imp.groupby(PROBLEM_KEY, sort=False)
    ]
    if len(sentences) <= _MAX_SENTENCES:
        return sentences, []
    return [
        _model_sentence(model, group, rule) for model, group in imp.groupby("model", sort=False)
    ], sentences


def _model_sentence(model: str, imp: pd.DataFrame, rule: Win) -> str:
    problems = imp.groupby(PROBLEM_KEY, sort=False)
    relaxed = problems.relaxed.max()
    decided = problems.verdict.agg(lambda verdict: (verdict != "undecided").any())
    open_cells = int(imp.open.sum())
    unscored = f" Not scored yet: {formatting.plural(open_cells, 'cell')}." if open_cells else ""
    columns = formatting.plural(len(relaxed), "column")
    if not decided.any():
        requirement = f"the rule requires {formatting.describe_rule(rule)}"
        return f"{model}: no verdict yet on {columns}; {requirement}.{unscored}"
    won = relaxed.dropna()
    line = f"{100 * rule.ratio:.4g} % of the dense score"
    text = f"{model}: IMP tickets reach {line} on {len(won)} of {columns}"
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


def _problem_sentence(group: pd.DataFrame, rule: Win) -> str:
    row = group.iloc[0]
    problem = f"{formatting.problem_name(row)}: "
    open_cells = int(group.open.sum())
    unscored = f" Not scored yet: {open_cells} of these cells." if open_cells else ""
    if (group.verdict == "undecided").all():
        requirement = f"the rule requires {formatting.describe_rule(rule)}"
        return f"{problem}no verdict yet; {requirement}.{unscored}"
    dense = f"the dense score of {formatting.mean_sd(row.dense_mean, row.dense_sd)}"
    if group.relaxed.isna().all():
        return f"{problem}no IMP ticket reaches {rule.ratio:.4g} × {dense}.{unscored}"
    best = group.sort_values(["relaxed", "score_mean"]).dropna(subset="relaxed").iloc[-1]
    deepest = ", the deepest level run" if best.relaxed == best.deepest else ""
    text = (
        f"{problem}IMP tickets reach {100 * rule.ratio:.4g} % of {dense} at up to"
        f" {formatting.percent(best.relaxed)} sparsity{deepest}."
    )
    text += _scores(best)
    if pd.notna(best.prior):
        text += f" The question-only baseline scores {formatting.number(best.prior)}."
    return text + unscored


def _scores(best: pd.Series) -> str:
    """Return the winner's score and those of random tickets at its sparsity.

    A warning follows if random tickets reach the line too.
    """
    names = {"random": "random tickets", "random_layerwise": "layer-matched random tickets"}
    score = formatting.mean_sd(best.score_mean, best.score_sd)
    scores = [f"tickets from {formatting.theta(best.rewind)} score {score}"]
    scores += [
        f"{name} {formatting.mean_sd(best[f'{control}_mean'], best[f'{control}_sd'])}"
        for control, name in names.items()
        if pd.notna(best[f"{control}_mean"])
    ]
    listed = " and ".join(part for part in (", ".join(scores[:-1]), scores[-1]) if part)
    text = f" At that sparsity, {listed}."
    if best[[f"{control}_mean" for control in RANDOM_SOURCES]].max() >= best.line:
        text += (
            " Random tickets also reach the line, so it does not distinguish winning tickets here."
        )
    return text
