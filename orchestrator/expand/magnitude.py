"""Tickets by the study's pruning method: iteratively from trained weights, or in one shot from
untrained ones."""

from __future__ import annotations

from typing import Any

from orchestrator.expand.builder import GridPoint, LevelRuns, PlanBuilder, pruning_rule
from trainables.pruning import PRUNERS


def imp(builder: PlanBuilder, point: GridPoint) -> LevelRuns:
    """Prune by magnitude iteratively, with rewinding (VLT, Algorithm 1; Frankle et al. 2020)."""
    for level in point.scored_levels():
        ticket = builder.imp_ticket(builder.ticket_point(point), level)
        run = builder.train(point, start=builder.start(point), ticket=ticket, level=level)
        yield level, (run, ticket)


def omp(builder: PlanBuilder, point: GridPoint) -> LevelRuns:
    """Prune the weights by magnitude in one shot, before any training (BERT-Tickets' "Pruning
    theta_0"; essential sparsity).

    With a pruning method that needs no weights, the tickets depend on no run and on no weights.
    """
    source = builder.ticket_point(point)
    for level in point.scored_levels():
        weights: dict[str, Any] = {}
        if PRUNERS[point.study.pruner].needs != "nothing":
            start = builder.theta_0(source)
            weights = {"parents": (start.trial,) if start.trial else (), "start": start}
        ticket = builder.prune(source, level, **weights, **pruning_rule(source))
        run = builder.train(point, start=builder.start(point), ticket=ticket, level=level)
        yield level, (run, ticket)
