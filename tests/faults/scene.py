"""One sweep of the laboratory: runs it to its end under blows, and looks at what is left."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psutil

from orchestrator.store import paths
from orchestrator.store.maintenance import collect, verify
from orchestrator.store.tickets import TicketStore
from tests.support.harness import LINGER_S, Ended, Home, ended, gone, results
from tests.support.lab import Lab, sweep
from tests.support.s3_proxy import Request

PATIENCE_S = 900.0
MOST_RUNS = 12
"""Of one sweep. A fault that needs more is not outlived."""
WORKER = "ray::ResourceTrainable"
"""How Ray names the processes of our workers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a disturbed sweep came to."""

    faults: Counter[str]
    """Injected, by kind."""
    reruns: int
    """Times that `sweepstakes run` had to be given again."""
    incomplete: str
    """The last words of the last run, where it did not end as it should; a traceback is no end."""
    twice: int
    """Trials that were committed twice."""
    again: int
    """Trials that a run did though they were committed before it began."""
    duplicated: int
    """Trials that two workers did, of which the store refused the later one."""
    different: int
    """Trials that are missing, or whose result is not that of the undisturbed sweep."""
    nameless: int
    """Objects that no record needs and the collector does not name."""
    unsound: int
    """Objects that `verify` finds damaged or missing."""
    seconds: float

    @property
    def good(self) -> bool:
        wrong = (self.twice, self.again, self.different, self.nameless, self.unsound)
        return not self.incomplete and not any(wrong)


@dataclass(slots=True)
class Scene:
    """A sweep with a store and a home of its own."""

    lab: Lab
    name: str
    dice: random.Random
    placement: dict[str, Any] = field(default_factory=dict)
    poison: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    """What its drivers get beside credentials."""
    struck: Counter[str] = field(default_factory=Counter)
    begun: float = field(default_factory=time.monotonic)
    _known: list[tuple[int, set[str]]] = field(default_factory=list)
    """At the start of each run: how many writes there were, and which records."""
    _first: int = field(init=False)

    def __post_init__(self) -> None:
        self._first = len(self.lab.proxy.requests)

    @property
    def home(self) -> Home:
        return Home(
            self.lab.root / self.name / "home", {**self.lab.credentials, **self.environment}
        )

    def start(self) -> subprocess.Popen[str]:
        """`sweepstakes run` for this sweep."""
        home = self.home
        home.path.mkdir(parents=True, exist_ok=True)
        placement = {
            "store": {"url": f"s3://tickets/{self.name}", "endpoint": self.lab.endpoint},
            "tracking": "none",
            "cache": str(self.lab.root / "cache"),
            "slots": 2,
            "checkpoint_every_s": 0.5,
        }
        content = sweep(poison=self.poison) | {"placement": placement | self.placement}
        self._known.append((len(self.writes()), self.committed()))
        return home.start("run", home.sweep(content))

    def requests(self) -> list[Request]:
        """Of this sweep, so far."""
        ours = f"tickets/{self.name}/"
        return [r for r in self.lab.proxy.requests[self._first :] if r.path.startswith(ours)]

    def writes(self) -> list[Request]:
        """Attempts to commit."""
        records = f"tickets/{self.name}/{paths.RECORDS}"
        return [r for r in self.requests() if r.method == "PUT" and r.path.startswith(records)]

    def committed(self) -> set[str]:
        """Paths of the records there are."""
        return {write.path for write in self.writes() if write.status in (200, 412)}

    def until(self, so: Callable[[], bool], run: subprocess.Popen[str]) -> bool:
        """Wait for it; False if the run ends before, or hangs."""
        deadline = time.monotonic() + PATIENCE_S
        while run.poll() is None and time.monotonic() < deadline:
            if so():
                return True
            time.sleep(0.02)
        return False

    def outcome(self, last: Sequence[Ended]) -> Outcome:
        """What is left, once every process of the sweep is gone; `last` are the runs that ended
        it."""
        self.lab.proxy.calm()
        store = self.lab.store(self.name)
        report = verify(store)
        found, expected = results(store.records()), self.lab.undisturbed
        writes = self.writes()
        again = {
            write.path
            for number, known in self._known
            for write in writes[number:]
            if write.path in known
        }
        twice, duplicated = repeated(writes)
        faults = Counter(str(r.fault) for r in self.requests() if r.fault and not r.in_storm)
        return Outcome(
            faults=self.struck + faults,
            reruns=len(self._known) - 1,
            incomplete="\n".join(unfinished(end, 1 if self.poison else 0) for end in last).strip(),
            twice=twice,
            again=len(again),
            duplicated=duplicated,
            different=sum(found.get(key) != expected.get(key) for key in {*found, *expected}),
            nameless=len(nameless(store)),
            unsound=len(report.damaged) + len(report.missing),
            seconds=time.monotonic() - self.begun,
        )


@dataclass(frozen=True, slots=True)
class Blow:
    """Falls once so many trials are committed."""

    fault: str
    after: int
    strike: Callable[[subprocess.Popen[str]], None]
    cure: Callable[[], None] | None = None
    """What somebody does about it before the sweep is run again."""


def settle(lab: Lab) -> None:
    """Run the sweep undisturbed: once to fill caches, and once for the record."""
    for name in ("first", "undisturbed"):
        outcome = drive(Scene(lab, name, random.Random(0)))
        assert not outcome.incomplete, outcome
        lab.undisturbed = results(lab.store(name).records())
        lab.seconds = outcome.seconds


def drive(scene: Scene, blows: Sequence[Blow] = (), linger_s: float = LINGER_S) -> Outcome:
    """Run the sweep, and again until it is done, while the blows fall. What a run started must end
    within `linger_s` of the last one's end."""
    coming = sorted(blows, key=lambda blow: blow.after)
    families: list[psutil.Process] = []
    while True:
        run = scene.start()
        cures = []
        while coming and scene.until(lambda: len(scene.committed()) >= coming[0].after, run):
            blow = coming.pop(0)
            families += family(run)
            blow.strike(run)
            scene.struck[blow.fault] += 1
            cures += [blow.cure] if blow.cure else []
        last = ended(run, PATIENCE_S)
        for cure in cures:
            cure()
        done = last.code == (1 if scene.poison else 0)
        if done or len(scene._known) >= MOST_RUNS:
            break
    assert gone(families, linger_s), "processes are left"
    return scene.outcome([last])


def together(scene: Scene, drivers: int) -> Outcome:
    """Several drivers at once on one store."""
    runs = [scene.start() for _ in range(drivers)]
    scene._known[1:] = []  # none of them is a re-run
    return scene.outcome([ended(run, PATIENCE_S) for run in runs])


def family(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """Everything that a driver started and that is still there."""
    try:
        return psutil.Process(run.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def lanes(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of a driver's workers."""
    found = []
    for process in family(run):
        with suppress(psutil.NoSuchProcess):
            found += [process] if " ".join(process.cmdline()).startswith(WORKER) else []
    return found


def unfinished(end: Ended, code: int) -> str:
    """What is wrong with how a run ended; empty if nothing."""
    text = end.out + end.err
    if end.code == code and "Traceback" not in text:
        return ""
    return f"exit code {end.code}: {end.err.strip()[-800:]}"


def repeated(writes: list[Request]) -> tuple[int, int]:
    """Records that were created twice; and those whose writing the store refused though nobody had
    missed the reply to an earlier one, so that it was another worker's."""
    twice: Counter[str] = Counter()
    uncertain: set[str] = set()
    refused: set[str] = set()
    for write in writes:
        twice[write.path] += write.status == 200
        if write.status == 412 and write.path not in uncertain:
            refused.add(write.path)
        if write.fault is not None or write.status == 0:
            uncertain.add(write.path)
    return sum(count > 1 for count in twice.values()), len(refused)


def nameless(store: TicketStore) -> set[str]:
    """What no record needs and the collector would never take."""
    records = store.records()
    needed = {paths.record(key) for key in records} | {paths.log(key) for key in records}
    for record in records.values():
        needed |= {paths.ticket(record.ticket.sha256)} if record.ticket else set()
        needed |= {record.weights.path} if record.weights else set()
    collected = collect(store, grace=timedelta(days=-1), abandoned=True, dry_run=True)
    there = {item.path for item in store.objects.list("")}
    unnamed = there - needed - {item.path for item in collected}
    return {path for path in unnamed if not path.startswith(paths.CATALOG)}
