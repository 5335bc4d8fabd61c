"""The log of a sweep's scheduling events: what happened to each trial, for `explain`.

The file has one JSON object per line. Each line is appended in one write, so a run that is killed
leaves complete lines. A new run appends to the lines of earlier ones, of which the last
`MAX_BYTES` are kept. Several runs may write at once. It is a help for people: no run reads it to
decide anything.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.credentials import redact_secrets
from orchestrator.errors import NotWritable
from orchestrator.files import write_atomic
from orchestrator.schedule.frontier import WorkItem
from orchestrator.schedule.run_events import (
    ChunkStarted,
    ItemCommitted,
    ItemDeferred,
    ItemFailed,
    ItemRequeued,
    ItemRetried,
    ItemsSkipped,
    ItemStarted,
    ItemsWanted,
    RunEvent,
)

log = logging.getLogger(__name__)

FILE = "events.jsonl"
MAX_BYTES = 4_000_000
"""What is kept of earlier runs: the events of some 8,000 trials."""
KEY_DIGITS = 16
"""Digits of a key in the file."""


class EventLog:
    """An `Observer` that appends to `FILE` in `folder`.

    Nothing is written before the first event. If the file cannot be written, the rest of the run is
    not logged, with one warning.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._path = folder / FILE
        self._run = run[:8]
        self._started = False
        self._failed = False

    def on_event(self, event: RunEvent) -> None:
        if self._failed:
            return
        try:
            for name, items, detail in _lines(event):
                self._append(name, items, detail)
        except (OSError, NotWritable) as error:
            self._failed = True
            log.warning("%s; events are no longer logged", error)

    def _append(self, name: str, items: Sequence[WorkItem], detail: str) -> None:
        if not self._started:
            _prepare(self._path)
            self._started = True
        entry = {
            "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "run": self._run,
            "event": name,
            "keys": [item.key[:KEY_DIGITS] for item in items],
            "detail": redact_secrets(detail),
        }
        line = json.dumps(entry).encode() + b"\n"
        # Opened for each line, since a run that starts meanwhile may replace the file.
        with self._path.open("a+b", buffering=0) as file:
            file.write(line if _ends_a_line(file) else b"\n" + line)


def read_events(folder: Path, key: str) -> list[str]:
    """Return the events of the work item `key` as lines of text, oldest first; none without a log.

    Lines that cannot be read are left out.
    """
    try:
        text = (folder / FILE).read_text(errors="replace")
    except OSError:
        return []
    short = key[:KEY_DIGITS]
    return [_text(entry) for entry in _entries(text.splitlines(), short)]


def _entries(lines: Iterable[str], short: str) -> Iterator[dict[str, str]]:
    for line in lines:
        if short not in line:
            continue
        try:
            entry = json.loads(line)
            if short in entry["keys"]:
                yield {name: str(entry[name]) for name in ("at", "run", "event", "detail")}
        except (ValueError, KeyError, TypeError):  # the end of a file on a full disk
            continue


def _text(entry: dict[str, str]) -> str:
    detail = f": {entry['detail']}" if entry["detail"] else ""
    return f"{entry['at']} run {entry['run']} {entry['event']}{detail}"


def _lines(event: RunEvent) -> Iterator[tuple[str, Sequence[WorkItem], str]]:
    """Yield the name, the work items and the details of each line that an event becomes."""
    match event:
        case ChunkStarted(session, items):
            yield "assigned", items, f"to session {session}"
        case ItemStarted(session, item):
            yield "started", [item], f"attempt {item.failures + 1}, session {session}"
        case ItemCommitted(item, _, score, session):
            by = "" if session else "by another run"
            yield "committed", [item], by if score is None else f"{by} score {score:.6g}".strip()
        case ItemRetried(item, error):
            yield "failed", [item], f"{error} (failure {item.failures}; it is tried again)"
        case ItemRequeued(item, cause):
            yield "requeued", [item], f"{cause} (this is no failure)"
        case ItemFailed(item, blocked):
            yield "given up", [item], item.error
            if blocked:
                yield "blocked", blocked, f"by {item.key[:12]}"
        case ItemDeferred(item):
            yield "deferred", [item], "another run holds its lease"
        case ItemsSkipped(items):
            yield "skipped", items, "not needed for what the sweep's strategy wants so far"
        case ItemsWanted(items):
            yield "wanted", items, "the results so far made the sweep's strategy want it"


def _prepare(path: Path) -> None:
    """Create the folder of the file, or cut off the file's oldest lines if it is long. What another
    run writes at that moment may be lost."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > MAX_BYTES:
        _, _, kept = path.read_bytes()[-MAX_BYTES:].partition(b"\n")
        write_atomic(path, kept)


def _ends_a_line(file: io.FileIO) -> bool:
    """Whether the file is empty or its last line is complete, which a full disk can prevent."""
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
