"""Section on the tickets themselves: their overlap, and where they prune."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import lru_cache

import pandas as pd

from orchestrator.report.data import formatting
from orchestrator.report.data.sources import tickets_of
from orchestrator.report.page.page import PageFigure, Section
from orchestrator.report.sections import overlap, summary, ticket_figures
from orchestrator.report.sections.base import ReportData, SectionPart, slug
from orchestrator.store.ticket import Ticket
from trainables.tickets import units


def tickets_section(data: ReportData) -> SectionPart | None:
    """Return the section on tickets; None if there are none to compare."""
    fetch = lru_cache(maxsize=None)(data.fetch_ticket)
    drawn: list[PageFigure | None] = []
    kinds: dict[str, None] = {}
    compared = [overlap.overlaps({}).assign(model="", compared="", sparsity=0.0)]
    for _, group in itertools.groupby(
        overlap.choose_tickets(data.cells, data.verdicts), key=lambda choice: choice.model
    ):
        choices = list(group)
        tasks = [choice for choice in choices if choice.kind == "tasks"]
        for choice in choices:
            fetched = overlap.fetch_tickets(choice.tickets, fetch)
            kinds |= dict.fromkeys(ticket.kind for ticket in fetched.values())
            pairs = overlap.overlaps(fetched)
            columns = {"model": choice.model, "compared": choice.kind, "sparsity": choice.sparsity}
            compared.append(pairs.assign(**columns))
            drawn.append(_overlap_figure(choice, pairs))
            if choice is (tasks or choices)[-1]:
                drawn.append(_layers_figure(choice, fetched))
    figures = [figure for figure in drawn if figure is not None]
    if not figures:
        return None
    tidy = pd.concat(compared, ignore_index=True)
    table = summary.overlap_table(tidy)
    note = (
        f"Overlap is the Jaccard index of the kept {' or '.join(units(kind) for kind in kinds)},"
        " |a ∩ b| / |a ∪ b|. Chance is what two independent tickets of the same sizes would share:"
        " d / (2 − d) at density d."
    )
    section = Section(
        title="The tickets",
        note=note,
        figures=figures,
        folded=((f"Overlap of every pair ({len(table.rows)})", table),),
    )
    return SectionPart(section=section, tidy={"overlaps": tidy})


def _overlap_figure(choice: overlap.TicketChoice, pairs: pd.DataFrame) -> PageFigure:
    tasks = choice.kind == "tasks"
    caption = (
        f"{tickets_of([choice.source])} of the tasks, first seed."
        if tasks
        else "Names: source of the ticket, weights it was pruned from, seed (s0, s1 …)."
    )
    suffix = ("tasks", f"{100 * choice.sparsity:.4g}") if tasks else ()
    title = f"Overlap of tickets, {_subject(choice)}"
    figure = ticket_figures.overlap_figure(pairs, title)
    return PageFigure(name=slug("overlap", choice.model, *suffix), figure=figure, caption=caption)


def _layers_figure(
    choice: overlap.TicketChoice, fetched: Mapping[str, Ticket]
) -> PageFigure | None:
    """Draw the found tickets of a choice; None if it has none."""
    every = choice.kind == "tasks"  # transferred tickets were found too
    labels = [
        row.label
        for row in choice.tickets.itertuples()
        if row.label in fetched and (every or row.source == choice.source)
    ]
    if not labels:
        return None
    layers = overlap.layer_sparsity({label: fetched[label] for label in labels})
    source = formatting.source_name(choice.source)
    figure = ticket_figures.layers_figure(layers, f"Where {source} prunes, {_subject(choice)}")
    caption = f"Mean of {formatting.plural(len(labels), f'{source} ticket')}: {', '.join(labels)}."
    return PageFigure(name=slug("layers", choice.model), figure=figure, caption=caption)


def _subject(choice: overlap.TicketChoice) -> str:
    return f"{choice.model} at {formatting.percent(choice.sparsity)} sparsity"
