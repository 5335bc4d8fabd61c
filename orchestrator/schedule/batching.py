"""Lanes: the lists of units that one worker runs in order, on one warm process.

A chain is one lane: its levels follow from one another, so nobody else could run them sooner.
Single leaves that share model and task, and so what a process has loaded, are batched: few enough
that every slot keeps busy (guided self-scheduling: a share of what is ready, shrinking to the end).
"""

from __future__ import annotations

from orchestrator.schedule.frontier import Frontier, State, Unit

LEAF_LENGTH = 2
"""Units of a leaf: a random cut, and the run that wears it."""


def next_lane(frontier: Frontier, *, slots: int, most: int) -> list[Unit]:
    """Take the most urgent lane off the frontier; empty when nothing is ready.

    `slots` is how many workers run at once, `most` the longest batch of leaves.
    """
    first = frontier.peek()
    if first is None:
        return []
    share = min(most, frontier.counts[State.READY] // (2 * slots))
    lane, taken = _take(frontier, first), 1
    while taken < share and len(lane) <= LEAF_LENGTH * taken:
        unit = frontier.peek()
        if unit is None or (unit.model, unit.task) != (first.model, first.task):
            break
        lane += _take(frontier, unit)
        taken += 1
    return lane


def _take(frontier: Frontier, first: Unit) -> list[Unit]:
    """`first` and, again and again, the heaviest unit that the lane so far makes ready."""
    lane = [first]
    made = set(first.members)
    while True:
        followers = [
            child
            for child in lane[-1].children
            if child.state is State.WAITING and child.needs <= made
        ]
        if not followers:
            frontier.start(lane)
            return lane
        heaviest = max(followers, key=lambda unit: unit.path)
        lane.append(heaviest)
        made |= heaviest.members
