"""Tickets that a training run with a search of its own finds, such as which blocks to skip."""

from __future__ import annotations

from orchestrator.expand.builder import GridPoint, LevelRuns, PlanBuilder


def search(builder: PlanBuilder, point: GridPoint) -> LevelRuns:
    """Cut the result of one search run to the budget of each level, and train every ticket from the
    start."""
    for level in point.scored_levels():
        ticket = builder.searched_ticket(builder.ticket_point(point), level)
        run = builder.train(point, start=builder.start(point), ticket=ticket, level=level)
        yield level, (run, ticket)
