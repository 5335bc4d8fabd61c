"""Tickets cut from weights: iteratively from trained ones, or at once from untrained ones."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.expand.builder import Builder, Point, chosen_by

Levels = Iterator[tuple[int, tuple[str, str]]]
"""(level, (key of the training run, key of the ticket it wears))."""


def imp(builder: Builder, point: Point) -> Levels:
    """Iterative magnitude pruning with rewinding (VLT, Algorithm 1; Frankle et al. 2020)."""
    for level in point.levels():
        ticket = builder.imp_ticket(builder.ticket_point(point), level)
        run = builder.train(point, start=builder.start(point), ticket=ticket, level=level)
        yield level, (run, ticket)


def omp(builder: Builder, point: Point) -> Levels:
    """One-shot magnitude pruning of the weights before any training (BERT-Tickets' "Pruning
    theta_0"; essential sparsity)."""
    source = builder.ticket_point(point)
    for level in point.levels():
        start = builder.theta_0(source)
        parents = (start.trial,) if start.trial else ()
        ticket = builder.cut(source, level, parents=parents, start=start, **chosen_by(source))
        run = builder.train(point, start=builder.start(point), ticket=ticket, level=level)
        yield level, (run, ticket)
