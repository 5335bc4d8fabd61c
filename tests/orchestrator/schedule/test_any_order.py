"""Whatever happens, in whatever order, the scheduler loses no item and runs none twice at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from orchestrator.plan.graph import Plan
from orchestrator.schedule.commands import (
    AssignChunk,
    Command,
    EndRun,
    Finish,
    Notify,
    ReleaseWorker,
    StartSession,
    WatchLease,
    WithdrawChunk,
)
from orchestrator.schedule.events import (
    Event,
    Interrupted,
    ItemEnd,
    ItemEnded,
    ItemResult,
    LeaseEnded,
    NodeLost,
    SessionEnded,
    SessionRequested,
    StoreOutage,
    Tick,
    WorkerRestarting,
    WorkerStarted,
)
from orchestrator.schedule.failures import LimitedRetries
from orchestrator.schedule.frontier import Frontier, WorkState
from orchestrator.schedule.run_events import ItemCommitted, ItemFailed
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.schedule.strategy import ALL, Strategy, StrategyState
from tests.support.sweeps import plan_of, sweep_document

PLAN = plan_of(
    sweep_document(
        seed=[0, 1], rewind=[0, 5], schedule={"rate": 0.2, "levels": 2}, controls=["random"]
    )
)
pick = st.integers(0, 100)


class ScoredParents:
    """Wants a run once all runs of the level below it have a score of 50 or more."""

    def wanted(self, plan: Plan, results: Mapping[str, float]) -> Iterable[str]:
        best = max((plan.trials[k].level for k, s in results.items() if s >= 50), default=-1)
        return [trial.key for trial in plan.training_runs() if trial.level <= best + 1]


class AnyOrder(RuleBasedStateMachine):
    """Plays Ray Tune and the workers."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.now = 0.0
        self.waiting: list[str] = []
        """Sessions without a worker."""
        self.chunks: dict[str, list[str]] = {}
        """What the worker of each session still has to run; empty while it waits for a chunk."""
        self.released: set[str] = set()
        self.leases: dict[str, list[str]] = {}
        self.committed: list[str] = []
        self.settled_events: Counter[str] = Counter()
        self.ended = False

    @initialize(strategy=st.sampled_from([ALL, ScoredParents()]))
    def begin(self, strategy: Strategy) -> None:
        self.state = StrategyState(PLAN, strategy)
        self.frontier = Frontier(PLAN, wanted=self.state.wanted())
        self.scheduler = Scheduler(
            self.frontier, slots=2, max_leaves=2, failures=LimitedRetries(2), strategy=self.state
        )

    def do(self, event: Event) -> list[Command]:
        self.now += 1.0
        commands = self.scheduler.handle(event, self.now)
        for command in commands:
            match command:
                case AssignChunk(session, keys):
                    assert not self.chunks[session]
                    assert session not in self.released
                    running = {key for chunk in self.chunks.values() for key in chunk}
                    assert not running & set(keys), "two workers run one item"
                    self.chunks[session] = list(keys)
                case ReleaseWorker(session):
                    assert not self.chunks[session]
                    self.released.add(session)
                case WithdrawChunk(session):
                    assert session not in self.chunks
                case WatchLease(key, trials):
                    self.leases[key] = list(trials)
                case Notify(ItemCommitted(item=item) | ItemFailed(item=item)):
                    self.settled_events[item.key] += 1
                case EndRun():
                    self.ended = True
        return commands

    def session(self, number: int, of: Iterable[str]) -> str:
        names = sorted(of)
        return names[number % len(names)]

    @rule()
    def request(self) -> None:
        self.number += 1
        name = f"s{self.number:03}"
        commands = self.do(SessionRequested(name))
        if StartSession(name) in commands:
            self.waiting.append(name)
        else:
            assert Finish() in commands or not [c for c in commands if not isinstance(c, Notify)]

    @precondition(lambda self: self.waiting)
    @rule(number=pick)
    def start(self, number: int) -> None:
        self.give_worker(self.session(number, self.waiting))

    @rule()
    def request_and_start(self) -> None:
        before = list(self.waiting)
        self.request()
        for session in self.waiting[len(before) :]:
            self.give_worker(session)

    def give_worker(self, session: str) -> None:
        self.waiting.remove(session)
        self.chunks[session] = []
        self.do(WorkerStarted(session))

    @precondition(lambda self: any(self.chunks.values()))
    @rule(
        number=pick,
        end=st.sampled_from(["complete"] * 4 + ["error", "lost", "leased", "outage", "stopped"]),
        score=st.floats(0, 100),
        flags=st.tuples(st.booleans(), st.booleans()),
    )
    def end_item(self, number: int, end: ItemEnd, score: float, flags: tuple[bool, bool]) -> None:
        session = self.session(number, (s for s, keys in self.chunks.items() if keys))
        key = self.chunks[session].pop(0)
        members = sorted(self.frontier.item(key).members) if end == "complete" else []
        self.committed += members
        if end != "complete":
            self.chunks[session] = []
        repeats, broken = (flag and end == "error" for flag in flags)
        last = end in ("outage", "stopped")
        result = ItemResult(
            key=key,
            end=end,
            committed=members,
            score=score if members else None,
            error="error",
            repeats=repeats,
            broken=broken,
            last=last,
        )
        self.do(ItemEnded(session, result))
        if last:
            self.leave(session, failed=False)

    @precondition(lambda self: self.chunks)
    @rule(number=pick, node=st.booleans())
    def lose_worker(self, number: int, node: bool) -> None:
        session = self.session(number, self.chunks)
        if node:
            self.do(NodeLost(session))
        self.leave(session, failed=True)

    @precondition(lambda self: self.chunks)
    @rule(number=pick)
    def restart_worker(self, number: int) -> None:
        session = self.session(number, self.chunks)
        self.released.discard(session)
        del self.chunks[session]
        self.waiting.append(session)
        self.do(WorkerRestarting(session))

    @precondition(lambda self: self.released)
    @rule(number=pick)
    def end_session(self, number: int) -> None:
        session = self.session(number, self.released)
        self.do(ItemEnded(session, ItemResult(end="idle", last=True)))
        self.leave(session, failed=False)

    def leave(self, session: str, *, failed: bool) -> None:
        del self.chunks[session]
        self.released.discard(session)
        self.do(SessionEnded(session, failed=failed))

    @precondition(lambda self: self.leases)
    @rule(number=pick, committed=st.booleans(), score=st.floats(0, 100))
    def end_lease(self, number: int, committed: bool, score: float) -> None:
        key = self.session(number, self.leases)
        trials = self.leases.pop(key)
        self.committed += trials if committed else []
        self.do(LeaseEnded(key, trials if committed else [], {key: score} if committed else {}))

    @rule(seconds=st.sampled_from([0.0, 11.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.do(Tick())

    @rule(choice=st.integers(0, 40))
    def end_run(self, choice: int) -> None:
        if choice == 0:
            self.do(Interrupted())
        elif choice == 1:
            self.do(StoreOutage("no answer"))

    @invariant()
    def every_item_is_where_its_state_says(self) -> None:
        items = self.frontier.items
        assert Counter(item.state for item in items) == Counter(
            {state: count for state, count in self.frontier.counts.items() if count}
        )
        running = {item.key for item in items if item.state is WorkState.RUNNING}
        at_work = {key for chunk in self.chunks.values() for key in chunk}
        assert at_work <= running
        assert bool(running - at_work) <= bool(self.waiting), "held only for waiting sessions"
        leased = {item.key for item in items if item.state is WorkState.LEASED}
        assert leased == self.leases.keys()
        assert len(self.committed) == len(set(self.committed)), "a trial was run twice"

    def teardown(self) -> None:
        """Let everything go well from now on: the run settles, or ends as it was told to."""
        for _ in range(400):
            if self.ended and not self.chunks:
                break
            self.wait(11.0)
            for session in list(self.waiting):
                self.give_worker(session)
            while any(self.chunks.values()):
                self.end_item(0, "complete", 80.0, (False, False))
            while self.leases:
                self.end_lease(0, True, 80.0)
            while self.released:
                self.end_session(0)
            if not self.chunks:
                self.request()
        assert self.ended
        stopped = self.scheduler.outage or self.scheduler._command == "stop"
        assert self.frontier.settled or stopped
        assert not self.frontier.want(self.state.wanted()), "what is wanted is not skipped"
        running = any(item.state is WorkState.RUNNING for item in self.frontier.items)
        assert not running or (stopped and self.waiting)
        finished = {i.key for i in self.frontier.items if i.state is WorkState.FINISHED}
        failed = {i.key for i in self.frontier.items if i.state is WorkState.FAILED}
        assert self.settled_events == Counter(finished | failed), "each outcome is told once"
        assert {key for i in self.frontier.items if i.key in finished for key in i.members} == set()


TestAnyOrder: Any = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
