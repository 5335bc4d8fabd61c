"""An observer of the caller cannot end a run."""

from __future__ import annotations

import logging

import pytest

from orchestrator.monitor.observers import CompositeObserver, IsolatedObserver
from orchestrator.schedule.run_events import ItemsWanted, RunEvent


class Recorder:
    def __init__(self, error: Exception | None = None) -> None:
        self.events: list[RunEvent] = []
        self._error = error

    def on_event(self, event: RunEvent) -> None:
        self.events.append(event)
        if self._error:
            raise self._error


def test_an_observer_that_raises_receives_no_more_events(caplog: pytest.LogCaptureFixture) -> None:
    broken, working = Recorder(ZeroDivisionError("a bug")), Recorder()
    observer = CompositeObserver(IsolatedObserver(broken), IsolatedObserver(working))
    events = [ItemsWanted([]), ItemsWanted([])]
    with caplog.at_level(logging.ERROR):
        for event in events:
            observer.on_event(event)
    assert working.events == events
    assert broken.events == events[:1]
    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [
        ZeroDivisionError
    ]
