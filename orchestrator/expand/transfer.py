"""Tickets found on one task, worn on another (VLT, section 4 "transfer"; BERT-Tickets, Fig. 2)."""

from __future__ import annotations

from orchestrator.expand.builder import Builder, Point
from orchestrator.expand.magnitude import Levels


def transfer(builder: Builder, point: Point, source: Point) -> Levels:
    """The IMP tickets of `source`'s task, each trained on `point`'s task from its own start."""
    for level in point.levels():
        ticket = builder.imp_ticket(builder.ticket_point(source), level)
        run = builder.train(point, start=builder.start(point), ticket=ticket, level=level)
        yield level, (run, ticket)
