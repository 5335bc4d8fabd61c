"""The section on the tickets themselves: what they share, and where they prune."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import lru_cache

import pandas as pd

from orchestrator.report.data import labels as words
from orchestrator.report.page.page import Drawn, Section
from orchestrator.report.sections import overlap, summary, ticket_figures
from orchestrator.report.sections.base import Findings, Part, slug
from orchestrator.store.ticket import Ticket


def tickets(found: Findings, fetch_ticket: Callable[[str], Ticket]) -> Part | None:
    fetch = lru_cache(maxsize=None)(fetch_ticket)
    drawn: list[Drawn | None] = []
    pairs_of = [overlap.overlaps({}).assign(model="", compared="", sparsity=0.0)]
    for _, of_model in itertools.groupby(
        overlap.choose(found.cells, found.verdicts), key=lambda choice: choice.model
    ):
        choices = list(of_model)
        tasks = [choice for choice in choices if choice.what == "tasks"]
        for choice in choices:
            bits = overlap.fetch(choice.tickets, fetch)
            pairs = overlap.overlaps(bits)
            place = {"model": choice.model, "compared": choice.what, "sparsity": choice.sparsity}
            pairs_of.append(pairs.assign(**place))
            drawn.append(_overlap_figure(choice, pairs))
            if choice is (tasks or choices)[-1]:
                drawn.append(_layers_figure(choice, bits))
    figures = [one for one in drawn if one is not None]
    if not figures:
        return None
    tidy = pd.concat(pairs_of, ignore_index=True)
    table = summary.overlap_table(tidy)
    note = (
        "Overlap is the Jaccard index of the kept weights, |a ∩ b| / |a ∪ b|. Chance is what two"
        " independent tickets of the same sizes would share, d / (2 − d) at density d."
    )
    section = Section(
        title="The tickets",
        note=note,
        figures=figures,
        folded=((f"Overlap of every pair ({len(table.rows)})", table),),
    )
    return Part(section=section, data={"overlaps": tidy})


def _overlap_figure(choice: overlap.Choice, pairs: pd.DataFrame) -> Drawn:
    tasks = choice.what == "tasks"
    caption = (
        "IMP tickets of the tasks, first seed."
        if tasks
        else "Names: source of the ticket, weights it was cut from, seed (s0, s1 …)."
    )
    what = ("tasks", f"{100 * choice.sparsity:.4g}") if tasks else ()
    title = f"Overlap of tickets, {_at(choice)}"
    figure = ticket_figures.overlap_figure(pairs, title)
    return Drawn(name=slug("overlap", choice.model, *what), figure=figure, caption=caption)


def _layers_figure(choice: overlap.Choice, bits: Mapping[str, Ticket]) -> Drawn | None:
    """Of the IMP tickets among the chosen; None if there are none."""
    lent = choice.what == "tasks"  # those of other tasks are IMP tickets too
    own = [row.label for row in choice.tickets.itertuples() if lent or row.source == "imp"]
    if not own:
        return None
    layers = overlap.layers({label: bits[label] for label in own})
    figure = ticket_figures.layers_figure(layers, f"Where IMP prunes, {_at(choice)}")
    caption = f"Mean of {words.count(len(own), 'IMP ticket')}: {', '.join(own)}."
    return Drawn(name=slug("layers", choice.model), figure=figure, caption=caption)


def _at(choice: overlap.Choice) -> str:
    return f"{choice.model} at {words.percent(choice.sparsity)} sparsity"
