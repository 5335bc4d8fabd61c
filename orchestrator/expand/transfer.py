"""Tickets found on one task and applied on another (VLT, section 4 "transfer"; BERT-Tickets, Fig.
2)."""

from __future__ import annotations

from orchestrator.expand.builder import GridPoint, LevelRuns, PlanBuilder


def transfer_tickets(builder: PlanBuilder, point: GridPoint, source: GridPoint) -> LevelRuns:
    """Train `point`'s task, from its own start, under the IMP tickets of `source`'s task."""
    for level in point.scored_levels():
        ticket = builder.imp_ticket(builder.ticket_point(source), level)
        run = builder.train(point, start=builder.start(point), ticket=ticket, level=level)
        yield level, (run, ticket)
