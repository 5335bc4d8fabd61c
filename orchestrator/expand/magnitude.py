"""Tickets by magnitude: iteratively from trained weights, or in one shot from untrained ones."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.expand.builder import GridPoint, PlanBuilder, pruning_rule

LevelRuns = Iterator[tuple[int, tuple[str, str]]]
"""Yields (level, (key of the training run, key of the ticket applied to it))."""


def imp(builder: PlanBuilder, point: GridPoint) -> LevelRuns:
    """Prune by magnitude iteratively, with rewinding (VLT, Algorithm 1; Frankle et al. 2020)."""
    for level in point.scored_levels():
        ticket = builder.imp_ticket(builder.ticket_point(point), level)
        run = builder.train(point, start=builder.start(point), ticket=ticket, level=level)
        yield level, (run, ticket)


def omp(builder: PlanBuilder, point: GridPoint) -> LevelRuns:
    """Prune the weights by magnitude in one shot, before any training (BERT-Tickets' "Pruning
    theta_0"; essential sparsity)."""
    source = builder.ticket_point(point)
    for level in point.scored_levels():
        start = builder.theta_0(source)
        parents = (start.trial,) if start.trial else ()
        ticket = builder.prune(source, level, parents=parents, start=start, **pruning_rule(source))
        run = builder.train(point, start=builder.start(point), ticket=ticket, level=level)
        yield level, (run, ticket)
