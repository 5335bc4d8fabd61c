"""Chunks: lists of work items that one worker runs in order, in one warm process.

A chain is one chunk: each level needs the previous one, so no other worker could run it sooner.
Leaves (items that no other item waits for) of one model and task are batched, because a warm
process already has their model and data loaded. Batches are kept small enough to leave work for
every slot (guided self-scheduling: each batch is a share of the ready items, which shrinks toward
the end).
"""

from __future__ import annotations

from orchestrator.schedule.frontier import Frontier, WorkItem, WorkState

ITEMS_PER_LEAF = 2
"""A random ticket, and the training run under it."""


def next_chunk(frontier: Frontier, *, slots: int, max_leaves: int) -> list[WorkItem]:
    """Mark the most urgent chunk of the frontier as running and return it; empty if none is ready.

    `slots` is the number of workers that run at once, `max_leaves` the longest batch of leaves.
    """
    first = frontier.peek()
    if first is None:
        return []
    share = min(max_leaves, frontier.counts[WorkState.READY] // (2 * slots))
    chunk, leaves = _start_with_followers(frontier, first), 1
    while leaves < share and len(chunk) <= ITEMS_PER_LEAF * leaves:
        item = frontier.peek()
        if item is None or (item.model, item.task) != (first.model, first.task):
            break
        chunk += _start_with_followers(frontier, item)
        leaves += 1
    return chunk


def _start_with_followers(frontier: Frontier, first: WorkItem) -> list[WorkItem]:
    """Start `first` and, repeatedly, the most expensive item that the ones before it make ready."""
    items = [first]
    committed = set(first.members)
    while True:
        followers = [
            child
            for child in items[-1].children
            if child.state is WorkState.WAITING and child.needs <= committed
        ]
        if not followers:
            frontier.start(items)
            return items
        follower = max(followers, key=lambda item: item.path_cost)
        items.append(follower)
        committed |= follower.members
