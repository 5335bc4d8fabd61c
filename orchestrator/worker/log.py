"""What a worker has to say about one attempt at a trial: kept beside the results, for `logs KEY`.

Captured are Python's logging and warnings of the process and what the worker tells itself. A later
attempt goes on where the earlier ones ended, and of all that the last 256 kB are kept. Nothing that
looks like a credential gets in.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import threading
import time
import traceback
import warnings
from collections import deque
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TextIO

from orchestrator.credentials import redact, secret_values

MOST_BYTES = 256 * 1024
"""Of a trial's log. A long trial writes some 20 kB: 200 points of progress, and its checkpoints."""
HEADING_BYTES = 1024
"""Left free for the heading, which is kept whatever follows: attempts are counted by it."""
TRACE_BYTES = 4 * 1024
"""Of a traceback in a failure's note: the innermost 20 or so frames, which are those that tell."""
APART = ("DeepSpeed", "transformers")
"""Loggers that do not hand their records up to the root."""

HEADING = re.compile(r"^=== attempt (\d+)\b", re.MULTILINE)


class TrialLog:
    """The log of one attempt, for as long as it is entered; `text` may be asked at any time.

    `what` names the trial for people; `before` is the text that earlier attempts left.
    """

    def __init__(self, what: str, before: str = "") -> None:
        numbers = HEADING.findall(before)
        self.attempt = int(numbers[-1]) + 1 if numbers else 1
        """Counts from 1, over all workers and runs."""
        self._heading = (
            f"=== attempt {self.attempt} at {what}, {_now()},"
            f" on {platform.node()}, process {os.getpid()}"
        )
        self._before = before
        self._lines: deque[str] = deque()
        self._size = 0
        self._lock = threading.Lock()
        self._secrets = secret_values(os.environ)
        self._handler = _Handler(self)
        self._begin = 0.0
        self._trace = ""

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        for logger in _loggers():
            logger.addHandler(self._handler)
        self._shown, warnings.showwarning = warnings.showwarning, self._warned
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Takes down how the attempt ended: with its traceback where it failed."""
        warnings.showwarning = self._shown
        for logger in _loggers():
            logger.removeHandler(self._handler)
        seconds = f"{time.monotonic() - self._begin:.1f} s"
        if error is None:
            self.say(f"ended after {seconds}")
            return
        self._trace = "".join(traceback.format_exception(error))
        self.say(f"ended after {seconds} by {type(error).__name__}\n{self._trace}")

    def say(self, text: str) -> None:
        """Add a line, or several, with the time of day (UTC). May be called by any thread."""
        line = f"{_now()[11:]} {redact(text, self._secrets).rstrip()}\n"
        with self._lock:
            self._lines.append(line)
            self._size += len(line)
            while self._size > MOST_BYTES and len(self._lines) > 1:
                self._size -= len(self._lines.popleft())

    def text(self) -> str:
        """All attempts so far, this one's at the end; at most `MOST_BYTES` in UTF-8."""
        with self._lock:
            own = "".join(self._lines)
        own = f"{self._heading}\n{_tail(own, MOST_BYTES - 2 * HEADING_BYTES)}"
        return _tail(self._before + own, MOST_BYTES)

    def failure(self) -> dict[str, str | int]:
        """What to note about the attempt that failed here: `attempts`, `host`, `at` (ISO 8601) and
        `trace`, the end of its traceback."""
        return {
            "attempts": self.attempt,
            "host": platform.node(),
            "at": _now(),
            "trace": _tail(redact(self._trace, self._secrets), TRACE_BYTES),
        }

    def _warned(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        self.say(f"WARNING {category.__name__}: {message} ({filename}:{lineno})")
        self._shown(message, category, filename, lineno, file, line)


class _Handler(logging.Handler):
    """Hands records to a `TrialLog`."""

    def __init__(self, log: TrialLog) -> None:
        super().__init__()
        self._log = log
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "py.warnings":  # taken down already, if something sends them to logging
            return
        try:
            self._log.say(self.format(record))
        except Exception:  # a record whose arguments do not fit its text must not end a trial
            self.handleError(record)


def _loggers() -> list[logging.Logger]:
    """The root, and those that keep their records from it."""
    apart = (logging.getLogger(name) for name in APART)
    return [logging.getLogger(), *(logger for logger in apart if not logger.propagate)]


def _tail(text: str, most: int) -> str:
    """The last whole lines of `text` that `most` bytes hold, after a word on what is missing."""
    data = text.encode()
    if len(data) <= most:
        return text
    gone = "… what came before is not kept\n"
    kept = data[-(most - len(gone.encode())) :]
    _, newline, whole = kept.partition(b"\n")
    return gone + (whole if newline else kept).decode(errors="ignore")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
