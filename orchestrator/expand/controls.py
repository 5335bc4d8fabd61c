"""Controls: runs of the same budget that lack one property of an IMP ticket."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.expand.builder import GridPoint, LevelRuns, PlanBuilder
from trainables.spec import Start

REINIT_SEED_OFFSET = 1_000_003
"""Added to a seed so that a control draws another network than the one it is compared with."""


def random(builder: PlanBuilder, point: GridPoint) -> LevelRuns:
    """Apply a random ticket of the level's budget, drawn over the whole pool (VLT, Table 1 row
    5)."""
    source = builder.ticket_point(point)
    for level in point.scored_levels():
        ticket = builder.prune(source, level, method="random", seed=source.seed)
        run = builder.train(point, start=builder.start(point), ticket=ticket, level=level)
        yield level, (run, ticket)


def random_layerwise(builder: PlanBuilder, point: GridPoint) -> LevelRuns:
    """Apply a random ticket that keeps as many weights of each tensor as the IMP ticket does.

    IMP's lead over this control is not explained by layer budgets.
    """
    source = builder.ticket_point(point)
    for level in point.scored_levels():
        like = builder.imp_ticket(source, level)
        ticket = builder.prune(
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


def reinit(builder: PlanBuilder, point: GridPoint) -> LevelRuns:
    """Apply the IMP ticket to a freshly drawn network (Frankle & Carbin 2019; BERT-Tickets'
    theta_0')."""
    fresh = Start(kind="init", seed=point.seed_of("init") + REINIT_SEED_OFFSET)
    return _on_other_weights(builder, point, fresh)


def other_init(builder: PlanBuilder, point: GridPoint, other: GridPoint) -> LevelRuns:
    """Apply the IMP ticket to the theta_0 of another entry of `models`: with BERT's weights, VLT's
    Table 1 row 6."""
    return _on_other_weights(builder, point, builder.theta_0(other))


def shuffle_within(builder: PlanBuilder, point: GridPoint) -> LevelRuns:
    """Apply the IMP ticket to theta_0 with the entries of each tensor permuted (VLT, Table 1 row
    7)."""
    shuffled = replace(builder.theta_0(point), shuffle="within_layer", shuffle_seed=point.seed)
    return _on_other_weights(builder, point, shuffled)


def shuffle_across(builder: PlanBuilder, point: GridPoint) -> LevelRuns:
    """Apply the IMP ticket to theta_0 with whole layers permuted over depth (BERT-Tickets'
    code)."""
    shuffled = replace(builder.theta_0(point), shuffle="across_depth", shuffle_seed=point.seed)
    return _on_other_weights(builder, point, shuffled)


def _on_other_weights(builder: PlanBuilder, point: GridPoint, start: Start) -> LevelRuns:
    for level in point.scored_levels():
        ticket = builder.imp_ticket(builder.ticket_point(point), level)
        run = builder.train(point, start=start, ticket=ticket, level=level)
        yield level, (run, ticket)
