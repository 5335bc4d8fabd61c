"""What the rows of a table have to know of their sources of tickets."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pandas as pd

from orchestrator.sources import Figure, TicketSource
from orchestrator.sources.names import find_source, main_sources


def entries(sources: Iterable[str]) -> dict[str, TicketSource]:
    """Return the entry of each source, in their order."""
    return {source: find_source(source).entry for source in dict.fromkeys(sources)}


def where(sources: pd.Series, condition: Callable[[TicketSource], bool]) -> pd.Series:
    """Return whether each row's source meets a condition."""
    chosen = [source for source, entry in entries(sources).items() if condition(entry)]
    return sources.isin(chosen)


def is_main(sources: pd.Series) -> pd.Series:
    """Return whether each row's tickets are found and scored on one task."""
    return where(sources, lambda entry: entry.is_main)


def in_figure(sources: pd.Series, figure: Figure) -> pd.Series:
    """Return whether each row's curve belongs to a figure of this kind."""
    return where(sources, lambda entry: entry.figure == figure)


def is_transferred(sources: pd.Series) -> pd.Series:
    """Return whether each row's tickets come from another task."""
    return in_figure(sources, "transfer")


def applied_sources(sources: Iterable[str]) -> set[str]:
    """Return the sources whose tickets the given ones apply to other weights or tasks."""
    return {entry.applies for entry in entries(sources).values() if entry.applies}


def reference_source(sources: Iterable[str]) -> str:
    """Return the source that the others are compared with: the first by rank of those that find
    tickets, also if only others that apply its tickets are given. Empty if there is none."""
    names = [*sources]
    found = {
        name: entry
        for name, entry in entries([*names, *applied_sources(names)]).items()
        if entry.is_main
    }
    return min(found, key=lambda name: (found[name].rank, name), default="")


def standing(sources: pd.Series) -> pd.Series:
    """Return a number to sort by: found tickets come first, by rank; controls of the same size
    come last."""
    known = entries(sources)
    last = max((entry.rank for entry in known.values()), default=0) + 1
    order = {
        source: entry.rank if entry.is_main else last + int(entry.is_comparison)
        for source, entry in known.items()
    }
    return sources.map(order)


def ticket_origins(rows: pd.DataFrame) -> pd.Series:
    """Return the task that each row's ticket comes from: another one if it is transferred."""
    tasks = {source: find_source(source).argument for source in rows.source.unique()}
    return rows.source.map(tasks).where(is_transferred(rows.source), rows.task)


def tickets_of(sources: Iterable[str]) -> str:
    """Return what a caption calls the found tickets among the sources: `IMP tickets`."""
    found = [source for source in main_sources(sources) if find_source(source).entry.is_main]
    if not found:
        return "Tickets"
    return f"{' and '.join(find_source(source).label for source in found)} tickets"
