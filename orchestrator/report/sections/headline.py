"""What a sweep found, in sentences: computed from the verdicts, with the warnings it needs."""

from __future__ import annotations

import pandas as pd

from orchestrator.report.data import labels as words
from orchestrator.report.data.tables import PROBLEM
from orchestrator.report.data.verdicts import RANDOM
from orchestrator.sweep.config import Win

_MOST_SENTENCES = 3


def headline(verdicts: pd.DataFrame, rule: Win) -> tuple[list[str], list[str]]:
    """(headline, details): one sentence per problem, on what its own IMP tickets reach and beside
    what; where these are many, one per model, and the sentences are the details."""
    own = verdicts[verdicts.source == "imp"]
    sentences = [_sentence(group, rule) for _, group in own.groupby(PROBLEM, sort=False)]
    if len(sentences) <= _MOST_SENTENCES:
        return sentences, []
    return [
        _in_short(model, group, rule) for model, group in own.groupby("model", sort=False)
    ], sentences


def _in_short(model: str, own: pd.DataFrame, rule: Win) -> str:
    problems = own.groupby(PROBLEM, sort=False)
    relaxed = problems.relaxed.max()
    decided = problems.verdict.agg(lambda verdict: (verdict != "undecided").any())
    open_cells = int(own.open.sum())
    rest = f" Not scored yet: {words.count(open_cells, 'cell')}." if open_cells else ""
    of = words.count(len(relaxed), "column")
    if not decided.any():
        return f"{model}: no verdict yet on {of}; the rule wants {words.win(rule)}.{rest}"
    won = relaxed.dropna()
    line = f"{100 * rule.ratio:.4g} % of the dense score"
    text = f"{model}: IMP tickets reach {line} on {len(won)} of {of}"
    if len(won) and won.min() == won.max():
        text += f", at {words.percent(won.max())} sparsity"
    elif len(won):
        least, deepest = (
            words.column(dict(zip(PROBLEM, key, strict=True)))
            for key in (won.idxmin(), won.idxmax())
        )
        text += (
            f", from {words.percent(won.min())} sparsity ({least})"
            f" to {words.percent(won.max())} ({deepest})"
        )
    undecided = int((~decided).sum())
    if undecided:
        text += f"; {undecided} have too few seeds for a verdict"
    return f"{text}.{rest}"


def _sentence(group: pd.DataFrame, rule: Win) -> str:
    row = group.iloc[0]
    what = f"{words.problem(row)}: "
    open_cells = int(group.open.sum())
    rest = f" Not scored yet: {words.count(open_cells, 'cell')} of these." if open_cells else ""
    if (group.verdict == "undecided").all():
        return f"{what}no verdict yet; the rule wants {words.win(rule)}.{rest}"
    dense = f"the dense score of {words.spread(row.dense_mean, row.dense_sd)}"
    if group.relaxed.isna().all():
        return f"{what}no IMP ticket reaches {rule.ratio:.4g} × {dense}.{rest}"
    best = group.sort_values(["relaxed", "score_mean"]).dropna(subset="relaxed").iloc[-1]
    deepest = ", the deepest level run" if best.relaxed == best.deepest else ""
    there = words.spread(best.score_mean, best.score_sd)
    text = (
        f"{what}IMP tickets reach {100 * rule.ratio:.4g} % of {dense} at up to"
        f" {words.percent(best.relaxed)} sparsity{deepest}; from {words.theta(best.rewind)} they"
        f" score {there} there."
    )
    text += _controls(best)
    if pd.notna(best.prior):
        text += f" A guess from the question alone scores {words.number(best.prior)}."
    return text + rest


def _controls(best: pd.Series) -> str:
    """What random tickets score at the same sparsity, and a warning where that is as good."""
    told = {
        "random": "Random tickets of that size score",
        "random_layerwise": "layer-matched random tickets",
    }
    parts = [
        f"{name} {words.spread(best[f'{control}_mean'], best[f'{control}_sd'])}"
        for control, name in told.items()
        if pd.notna(best[f"{control}_mean"])
    ]
    if not parts:
        return ""
    text = f" {' and '.join(parts)}."
    if best[[f"{control}_mean" for control in RANDOM]].max() >= best.line:
        text += " So random tickets reach the line too: here it does not tell tickets apart."
    return text
