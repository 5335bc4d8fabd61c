"""Which work items may start now, given the plan and what has happened to its trials so far.

A work item is a single trial, or a training run together with its by-products: the prune trials and
rewind points that it produces. An item is ready when every trial it needs is committed. A committed
run with a missing by-product is ready again, as a replay. An item that is given up blocks its
descendants. An item that no wanted trial needs is skipped until one does. The frontier is pure, and
every operation costs at most one heap step for each item that it affects, because the scheduler
calls it in every iteration of Ray Tune's loop.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from orchestrator.plan.graph import Plan
from orchestrator.plan.work import CostFunction, work_of


class WorkState(Enum):
    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    LEASED = "leased"
    """Another run holds the lease of the item."""
    FINISHED = "finished"
    FAILED = "failed"
    BLOCKED = "blocked"
    """Depends on an item that has failed."""
    SKIPPED = "skipped"
    """Not needed for what is wanted so far."""

    @property
    def settled(self) -> bool:
        """Whether a run may end with items in this state."""
        return self in _SETTLED


_SETTLED = (WorkState.FINISHED, WorkState.FAILED, WorkState.BLOCKED, WorkState.SKIPPED)
_UNSETTLED = tuple(state for state in WorkState if state not in _SETTLED)


@dataclass(slots=True, eq=False)
class WorkItem:
    """What a worker runs in one go: `key` names it, `members` are the trials it still has to
    commit."""

    key: str
    model: str
    task: str
    cost: float
    """Cost of the training run, in seconds or in work (see `plan.work`); 0 if there is none."""
    members: set[str] = field(default_factory=set)
    needs: set[str] = field(default_factory=set)
    """Uncommitted trials of other items that this one depends on."""
    children: list[WorkItem] = field(default_factory=list)
    state: WorkState = WorkState.WAITING
    failures: int = 0
    node_losses: int = 0
    """Number of nodes that were lost while they ran it."""
    path_cost: float = 0.0
    """Cost of the longest path from this item, itself included, to the end of the plan."""
    error: str = ""


class Frontier:
    """The state of all work items of a plan that are not committed yet.

    `committed` holds the keys of committed trials. `cost` weighs the items, so that the longest
    remaining path comes first. `wanted` holds the keys of the trials to run; by default all.
    """

    def __init__(
        self,
        plan: Plan,
        committed: Iterable[str] = (),
        *,
        cost: CostFunction = work_of,
        wanted: Iterable[str] | None = None,
    ) -> None:
        done = set(committed)
        self._item_of: dict[str, WorkItem] = {}
        self._waiting_for: dict[str, list[WorkItem]] = {}
        self._ready: list[tuple[float, int, WorkItem]] = []
        self._order = 0
        self.items = _work_items(plan, done, cost)
        for item in self.items:
            for key in item.members:
                self._item_of[key] = item
        self._link(plan, done)
        for item in reversed(self.items):
            item.path_cost = item.cost + max(
                (child.path_cost for child in item.children), default=0.0
            )
        self.counts = dict.fromkeys(WorkState, 0)
        """Number of items by state."""
        self.counts[WorkState.WAITING] = len(self.items)
        if wanted is None:
            for item in self.items:
                self._update_ready(item)
        else:
            for item in self.items:
                self._move(item, WorkState.SKIPPED)
            self.want(wanted)

    def _link(self, plan: Plan, done: set[str]) -> None:
        for item in self.items:
            inside = {item.key, *item.members}
            parents = {p for key in inside for p in plan.trials[key].parents} - inside
            item.needs = parents - done
            for key in item.needs:
                self._waiting_for.setdefault(key, []).append(item)
            for parent in {id(i): i for i in (self._item_of[key] for key in item.needs)}.values():
                parent.children.append(item)

    @property
    def settled(self) -> bool:
        """Whether every item is finished, failed, blocked or skipped."""
        return not any(self.counts[state] for state in _UNSETTLED)

    def peek(self) -> WorkItem | None:
        """Return the ready item with the largest `path_cost`: delaying it would delay the end."""
        while self._ready and self._ready[0][2].state is not WorkState.READY:
            heapq.heappop(self._ready)
        return self._ready[0][2] if self._ready else None

    def start(self, items: Sequence[WorkItem]) -> None:
        """Mark items as running, in the order in which one worker will run them."""
        for item in items:
            assert item.state in (WorkState.READY, WorkState.WAITING), (
                f"{item.key} is {item.state.value}"
            )
            self._move(item, WorkState.RUNNING)

    def commit(self, key: str) -> None:
        """Record that a trial is in the store. Trials outside this plan's items are ignored."""
        for dependent in self._waiting_for.pop(key, ()):
            dependent.needs.discard(key)
            self._update_ready(dependent)
        item = self._item_of.get(key)
        if item is None:
            return
        item.members.discard(key)
        if not item.members and (not item.state.settled or item.state is WorkState.SKIPPED):
            self._move(item, WorkState.FINISHED)

    def want(self, keys: Iterable[str]) -> list[WorkItem]:
        """Stop skipping the items that commit the trials `keys`, and all items that these need.

        Return the items that were skipped before.
        """
        wanted: list[WorkItem] = []
        stack = [self._item_of[key] for key in keys if key in self._item_of]
        while stack:
            item = stack.pop()
            if item.state is WorkState.SKIPPED:
                self._move(item, WorkState.WAITING)
                wanted.append(item)
                stack += [self._item_of[key] for key in item.needs]
        lost = (WorkState.FAILED, WorkState.BLOCKED)
        for item in wanted:
            parents = (self._item_of[key] for key in item.needs)
            failed = next((parent for parent in parents if parent.state in lost), None)
            if failed is None:
                self._update_ready(item)
            elif not item.state.settled:
                self._block(item, failed.key)
                self._block_descendants(item)
        return wanted

    def requeue(self, item: WorkItem) -> None:
        """Return an item whose worker ended before it ran the item; this is not a failure."""
        if item.state is WorkState.RUNNING:
            self._move(item, WorkState.WAITING)
            self._update_ready(item)

    def defer(self, item: WorkItem) -> None:
        """Set aside an item that another run holds the lease of, until `resume` or `commit`."""
        if item.state is WorkState.RUNNING:
            self._move(item, WorkState.LEASED)

    def resume(self, item: WorkItem) -> None:
        """Return a deferred item to the queue: the other run's lease is over."""
        if item.state is WorkState.LEASED:
            self._move(item, WorkState.WAITING)
            self._update_ready(item)

    def fail(self, item: WorkItem, error: str) -> list[WorkItem]:
        """Give a running item up; return the descendants that this blocks."""
        assert item.state is WorkState.RUNNING, f"{item.key} is {item.state.value}"
        item.error = error
        self._move(item, WorkState.FAILED)
        return self._block_descendants(item)

    def item(self, key: str) -> WorkItem:
        """Return the item that commits the trial `key`."""
        return self._item_of[key]

    def _move(self, item: WorkItem, state: WorkState) -> None:
        self.counts[item.state] -= 1
        self.counts[state] += 1
        item.state = state

    def _update_ready(self, item: WorkItem) -> None:
        """Make a waiting item ready if it needs nothing any more."""
        if item.state is WorkState.WAITING and not item.needs:
            self._move(item, WorkState.READY)
            self._order += 1
            heapq.heappush(self._ready, (-item.path_cost, self._order, item))

    def _block(self, item: WorkItem, by: str) -> None:
        self._move(item, WorkState.BLOCKED)
        item.error = f"blocked by {by[:12]}"

    def _block_descendants(self, failed: WorkItem) -> list[WorkItem]:
        blocked, stack = [], [failed]
        while stack:
            parent = stack.pop()
            for child in parent.children:
                if not child.state.settled and child.needs & parent.members:
                    self._block(child, failed.key)
                    blocked.append(child)
                    stack.append(child)
        return blocked


def _work_items(plan: Plan, done: set[str], cost: CostFunction) -> list[WorkItem]:
    """Return the items that still have trials to commit, parents first."""
    items: dict[str, WorkItem] = {}
    for trial in plan:
        if trial.key in done:
            continue
        producer = plan.trials[trial.produced_by] if trial.produced_by else trial
        item = items.get(producer.key)
        if item is None:
            item = items[producer.key] = WorkItem(
                producer.key, trial.model, trial.task, cost(producer)
            )
        item.members.add(trial.key)
    return list(items.values())
