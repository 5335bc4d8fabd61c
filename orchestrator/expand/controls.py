"""Controls: runs of the same budget that lack one thing an IMP ticket has."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.expand.builder import Builder, Point
from orchestrator.expand.magnitude import Levels
from trainables.spec import Start

OTHER_INIT = 1_000_003
"""Added to a seed where a control must draw something other than the network it controls."""


def random(builder: Builder, point: Point) -> Levels:
    """A random ticket of the level's budget, drawn over the whole pool (VLT, Table 1 row 5)."""
    source = builder.ticket_point(point)
    for level in point.levels():
        ticket = builder.cut(source, level, method="random", seed=source.seed)
        run = builder.train(point, start=builder.start(point), ticket=ticket, level=level)
        yield level, (run, ticket)


def random_layerwise(builder: Builder, point: Point) -> Levels:
    """A random ticket that keeps as many weights of each tensor as the IMP ticket does: what is
    left of IMP's lead against it is not a matter of layer budgets."""
    source = builder.ticket_point(point)
    for level in point.levels():
        like = builder.imp_ticket(source, level)
        ticket = builder.cut(
            source,
            level,
            parents=(like,),
            method="random",
            scope="layer",
            like=like,
            seed=source.seed,
        )
        run = builder.train(point, start=builder.start(point), ticket=ticket, level=level)
        yield level, (run, ticket)


def reinit(builder: Builder, point: Point) -> Levels:
    """The IMP ticket on a freshly drawn network (Frankle & Carbin 2019; BERT-Tickets' theta_0')."""
    fresh = Start(kind="init", seed=point.seeded("init") + OTHER_INIT)
    return _on_other_weights(builder, point, fresh)


def other_init(builder: Builder, point: Point, other: Point) -> Levels:
    """The IMP ticket on the theta_0 of another entry of `models`: with BERT's weights, VLT's
    Table 1 row 6."""
    return _on_other_weights(builder, point, builder.theta_0(other))


def shuffle_within(builder: Builder, point: Point) -> Levels:
    """The IMP ticket on theta_0 with the entries of each tensor permuted (VLT, Table 1 row 7)."""
    shuffled = replace(builder.theta_0(point), shuffle="within_layer", shuffle_seed=point.seed)
    return _on_other_weights(builder, point, shuffled)


def shuffle_across(builder: Builder, point: Point) -> Levels:
    """The IMP ticket on theta_0 with whole layers permuted over depth (BERT-Tickets' code)."""
    shuffled = replace(builder.theta_0(point), shuffle="across_depth", shuffle_seed=point.seed)
    return _on_other_weights(builder, point, shuffled)


def _on_other_weights(builder: Builder, point: Point, start: Start) -> Levels:
    for level in point.levels():
        ticket = builder.imp_ticket(builder.ticket_point(point), level)
        run = builder.train(point, start=start, ticket=ticket, level=level)
        yield level, (run, ticket)
