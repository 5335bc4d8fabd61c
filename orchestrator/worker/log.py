"""The log of one attempt at a trial, which is stored with the results, for `logs KEY`.

It captures Python's logging and warnings of the process, and the lines that the worker adds. A
later attempt appends to the earlier ones, and the last 256 kB of all are kept. Anything that looks
like a credential is redacted.
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

MAX_BYTES = 256 * 1024
"""Limit of a trial's log. A long trial writes about 20 kB: 200 points of progress, and its
checkpoints."""
HEADING_BYTES = 1024
"""Reserved for the heading, which is never cut off, because it counts the attempts."""
MAX_TRACE_BYTES = 4 * 1024
"""Limit of the traceback in a failure note: the innermost 20 or so frames, the useful ones."""
NON_PROPAGATING = ("DeepSpeed", "transformers")
"""Loggers that do not propagate their records to the root logger."""

HEADING = re.compile(r"^=== attempt (\d+)\b", re.MULTILINE)


class TrialLog:
    """The log of one attempt. It captures output within its `with` block.

    `title` describes the trial for the reader; `previous` is the text of earlier attempts. `text`
    may be called at any time.
    """

    def __init__(self, title: str, previous: str = "") -> None:
        numbers = HEADING.findall(previous)
        self.attempt = int(numbers[-1]) + 1 if numbers else 1
        """Counts from 1, over all workers and runs."""
        self._heading = (
            f"=== attempt {self.attempt}: {title}, {_now()},"
            f" host {platform.node()}, process {os.getpid()}"
        )
        self._previous = previous
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
        self._showwarning, warnings.showwarning = warnings.showwarning, self._on_warning
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Log how the attempt ended, with the traceback of an error."""
        warnings.showwarning = self._showwarning
        for logger in _loggers():
            logger.removeHandler(self._handler)
        seconds = f"{time.monotonic() - self._begin:.1f} s"
        if error is None:
            self.add(f"ended after {seconds}")
            return
        self._trace = "".join(traceback.format_exception(error))
        self.add(f"ended after {seconds} with {type(error).__name__}\n{self._trace}")

    def add(self, text: str) -> None:
        """Add one or more lines with the time of day (UTC). Any thread may call it."""
        line = f"{_now()[11:]} {redact(text, self._secrets).rstrip()}\n"
        with self._lock:
            self._lines.append(line)
            self._size += len(line)
            while self._size > MAX_BYTES and len(self._lines) > 1:
                self._size -= len(self._lines.popleft())

    def text(self) -> str:
        """Return the log of all attempts, this one last; at most `MAX_BYTES` in UTF-8."""
        with self._lock:
            lines = "".join(self._lines)
        current = f"{self._heading}\n{_tail(lines, MAX_BYTES - 2 * HEADING_BYTES)}"
        return _tail(self._previous + current, MAX_BYTES)

    def failure_note(self) -> dict[str, str | int]:
        """Return what to store about this failed attempt: `attempts`, `host`, `at` (ISO 8601) and
        `trace`, the end of its traceback."""
        return {
            "attempts": self.attempt,
            "host": platform.node(),
            "at": _now(),
            "trace": _tail(redact(self._trace, self._secrets), MAX_TRACE_BYTES),
        }

    def _on_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        self.add(f"WARNING {category.__name__}: {message} ({filename}:{lineno})")
        self._showwarning(message, category, filename, lineno, file, line)


class _Handler(logging.Handler):
    """Add records to a `TrialLog`."""

    def __init__(self, log: TrialLog) -> None:
        super().__init__()
        self._log = log
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "py.warnings":  # `_on_warning` has added it already
            return
        try:
            self._log.add(self.format(record))
        except Exception:  # a record whose arguments do not fit its format must not end a trial
            self.handleError(record)


def _loggers() -> list[logging.Logger]:
    """Return the root logger, and those that do not propagate to it."""
    loggers = (logging.getLogger(name) for name in NON_PROPAGATING)
    return [logging.getLogger(), *(logger for logger in loggers if not logger.propagate)]


def _tail(text: str, limit: int) -> str:
    """Return the last complete lines of `text` that fit in `limit` bytes, after a line that marks
    the omission."""
    data = text.encode()
    if len(data) <= limit:
        return text
    mark = "… earlier lines are omitted\n"
    end = data[-(limit - len(mark.encode())) :]
    _, newline, lines = end.partition(b"\n")
    return mark + (lines if newline else end).decode(errors="ignore")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
