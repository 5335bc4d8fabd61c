"""The log of scheduling events: what it tells of a trial, and that a killed run leaves it whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import NotWritable
from orchestrator.monitor import event_log
from orchestrator.monitor.event_log import FILE, EventLog, read_events
from orchestrator.schedule.frontier import Frontier, WorkItem
from orchestrator.schedule.run_events import (
    ChunkEnded,
    ChunkStarted,
    ItemCommitted,
    ItemDeferred,
    ItemFailed,
    ItemRequeued,
    ItemRetried,
    ItemsSkipped,
    ItemStarted,
    ItemsWanted,
)
from tests.support.sweeps import plan_of, sweep_document


@pytest.fixture
def items() -> list[WorkItem]:
    return Frontier(plan_of(sweep_document(controls=[]))).items


def story(folder: Path, item: WorkItem) -> list[str]:
    """Events without the times."""
    return [line.split(" ", 1)[1] for line in read_events(folder, item.key)]


def test_the_story_of_a_trial_is_told_in_order_and_without_that_of_others(
    items: list[WorkItem], tmp_path: Path
) -> None:
    dense, first, second = items[:3]
    log = EventLog(tmp_path, "0123456789")
    log.on_event(ItemsSkipped([second]))
    log.on_event(ChunkStarted("s1", [dense, first]))
    log.on_event(ItemStarted("s1", dense))
    dense.failures = 1
    log.on_event(ItemRetried(dense, "the loss is not finite"))
    log.on_event(ChunkEnded("s1", [dense, first]))
    log.on_event(ItemRequeued(dense, "its node was lost"))
    log.on_event(ItemDeferred(dense))
    log.on_event(ItemCommitted(dense, [dense.key], 71.25, "s1"))
    log.on_event(ItemsWanted([second]))
    first.error = "no such file"
    log.on_event(ItemFailed(first, [second]))
    assert story(tmp_path, dense) == [
        "run 01234567 assigned: to session s1",
        "run 01234567 started: attempt 1, session s1",
        "run 01234567 failed: the loss is not finite (failure 1; it is tried again)",
        "run 01234567 requeued: its node was lost (this is no failure)",
        "run 01234567 deferred: another run holds its lease",
        "run 01234567 committed: score 71.25",
    ], "it can be read while the run goes on"
    assert story(tmp_path, first)[-1] == "run 01234567 given up: no such file"
    assert [line.split()[2] for line in story(tmp_path, second)] == [
        "skipped:",
        "wanted:",
        "blocked:",
    ]
    log = EventLog(tmp_path, "fedcba9876")
    log.on_event(ItemCommitted(dense, [dense.key], None))
    assert story(tmp_path, dense)[-1] == "run fedcba98 committed: by another run"
    assert len(story(tmp_path, dense)) == 7, "earlier runs are kept"


def test_a_run_without_events_writes_nothing(tmp_path: Path, items: list[WorkItem]) -> None:
    EventLog(tmp_path, "run")
    assert not list(tmp_path.iterdir())
    assert read_events(tmp_path, items[0].key) == []


def test_a_damaged_line_is_left_out(tmp_path: Path, items: list[WorkItem]) -> None:
    log = EventLog(tmp_path, "run")
    log.on_event(ItemDeferred(items[0]))
    with (tmp_path / FILE).open("a") as file:
        file.write(f'{{"keys": ["{items[0].key[:16]}"], "event": 1}}\n')
        file.write(f'{{"at": "2026-01-01T00:00:00Z", "keys": ["{items[0].key[:16]}"')
    assert len(read_events(tmp_path, items[0].key)) == 1
    EventLog(tmp_path, "next").on_event(ItemDeferred(items[0]))
    assert len(read_events(tmp_path, items[0].key)) == 2, "it starts on a line of its own"


def test_the_oldest_lines_of_a_long_log_are_dropped_when_a_run_starts(
    tmp_path: Path, items: list[WorkItem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "MAX_BYTES", 1000)
    log = EventLog(tmp_path, "first")
    for _ in range(50):
        log.on_event(ItemDeferred(items[0]))
    log = EventLog(tmp_path, "second")
    log.on_event(ItemDeferred(items[0]))
    lines = story(tmp_path, items[0])
    assert 2 < len(lines) < 12
    assert lines[0].startswith("run first")
    assert lines[-1].startswith("run second")


def test_a_run_that_trims_the_log_does_not_end_that_of_another(
    tmp_path: Path, items: list[WorkItem], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = EventLog(tmp_path, "first")
    for _ in range(50):
        first.on_event(ItemDeferred(items[0]))
    monkeypatch.setattr(event_log, "MAX_BYTES", 1000)
    EventLog(tmp_path, "second").on_event(ItemDeferred(items[1]))
    first.on_event(ItemCommitted(items[0], [items[0].key], 50.0, "s1"))
    lines = story(tmp_path, items[0])
    assert len(lines) < 12
    assert lines[-1] == "run first committed: score 50"


def test_a_log_that_cannot_be_written_does_not_end_the_run(
    tmp_path: Path, items: list[WorkItem]
) -> None:
    (tmp_path / "file").touch()
    log = EventLog(tmp_path / "file", "run")
    log.on_event(ItemDeferred(items[0]))
    log.on_event(ItemDeferred(items[0]))
    assert read_events(tmp_path / "file", items[0].key) == []


def test_a_long_log_that_cannot_be_trimmed_does_not_end_the_run(
    tmp_path: Path, items: list[WorkItem], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> Path:
        raise NotWritable(f"{path.parent}: no file can be written here (No space left on device)")

    EventLog(tmp_path, "first").on_event(ItemDeferred(items[0]))
    monkeypatch.setattr(event_log, "MAX_BYTES", 10)
    monkeypatch.setattr(event_log, "write_atomic", full)
    EventLog(tmp_path, "second").on_event(ItemDeferred(items[0]))
    assert len(read_events(tmp_path, items[0].key)) == 1


def test_no_secret_is_logged(
    tmp_path: Path, items: list[WorkItem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verysecretvalue")
    log = EventLog(tmp_path, "run")
    log.on_event(ItemRetried(items[0], "refused: verysecretvalue"))
    assert "verysecretvalue" not in (tmp_path / FILE).read_text()
