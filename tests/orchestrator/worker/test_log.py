"""The log of a trial: what it captures, what it redacts, and what it keeps of a long one."""

from __future__ import annotations

import logging
import re
import warnings
from threading import Thread

import pytest

from orchestrator.credentials import redact_secrets
from orchestrator.worker.log import MAX_BYTES, MAX_TRACE_BYTES, TrialLog


def test_logging_and_warnings_of_the_process_are_captured() -> None:
    with (
        warnings.catch_warnings(record=True) as still_shown,
        TrialLog("train uniter-tiny easy_vqa level 3") as log,
    ):
        warnings.simplefilter("always")
        log.add("starts")
        logging.getLogger("some.library").warning("%d things are odd", 3)
        warnings.warn("this is slow", UserWarning, stacklevel=1)
        thread = Thread(target=log.add, args=("from a thread",))
        thread.start()
        thread.join()
    assert [str(warning.message) for warning in still_shown] == ["this is slow"]
    logging.getLogger("some.library").warning("too late")
    heading, *lines = log.text().splitlines()
    assert heading.startswith("=== attempt 1: train uniter-tiny easy_vqa level 3, 20")
    messages = [re.sub(r"^\d\d:\d\d:\d\dZ ", "", line) for line in lines]
    assert messages[:2] == ["starts", "WARNING some.library: 3 things are odd"]
    assert messages[2].startswith("WARNING UserWarning: this is slow (")
    assert messages[3] == "from a thread"
    assert re.fullmatch(r"ended after \d+\.\d s", messages[4])
    assert len(messages) == 5


def test_a_logger_that_does_not_propagate_is_captured_too() -> None:
    logger = logging.getLogger("DeepSpeed")
    before, logger.propagate = logger.propagate, False
    try:
        with TrialLog("a trial") as log:
            logger.error("no such op")
    finally:
        logger.propagate = before
    assert "ERROR DeepSpeed: no such op" in log.text()


def test_attempts_are_appended() -> None:
    text = ""
    for _ in range(3):
        with TrialLog("a trial", text) as log:
            log.add("hello")
        text = log.text()
    assert re.findall(r"attempt (\d)", text) == ["1", "2", "3"]
    assert text.count("hello") == 3
    assert log.attempt == 3


def fail() -> None:
    raise ValueError("wrong value")


def test_a_failed_attempt_logs_its_traceback() -> None:
    with (
        pytest.raises(ValueError, match="wrong value"),
        TrialLog("a trial", "=== attempt 4\n") as log,
    ):
        fail()
    assert "with ValueError\nTraceback" in log.text()
    assert "in fail\n" in log.text()
    note = log.failure_note()
    assert note["attempts"] == 5
    assert note["host"]
    assert str(note["trace"]).endswith("ValueError: wrong value\n")


def even(depth: int) -> None:
    """Call `odd`: a traceback shows only three frames of a function that calls itself."""
    odd(depth - 1) if depth else fail()


def odd(depth: int) -> None:
    even(depth - 1)


def test_a_long_traceback_keeps_its_end() -> None:
    with pytest.raises(ValueError, match="wrong value"), TrialLog("a trial") as log:
        even(100)
    trace = str(log.failure_note()["trace"])
    assert len(trace.encode()) <= MAX_TRACE_BYTES
    assert trace.startswith("…")
    assert trace.endswith("ValueError: wrong value\n")


def test_a_long_log_keeps_its_end_and_the_number_of_attempts() -> None:
    with TrialLog("a trial") as first:
        for number in range(6000):
            first.add(f"line {number} " + "ä" * 40)
    text = first.text()
    assert MAX_BYTES * 0.9 < len(text.encode()) <= MAX_BYTES
    assert "line 5999 " in text
    assert "line 0 " not in text
    with TrialLog("a trial", text) as second:
        pass
    assert second.attempt == 2
    assert "line 5999 " in second.text()
    assert len(second.text().encode()) <= MAX_BYTES


def log_secret(log: TrialLog, secret: str) -> None:
    log.add(f"key {secret}")
    logging.getLogger("botocore").warning("signing with %s", secret)
    log.add("false positives stay")
    raise RuntimeError(f"refused {secret}")


def test_credentials_are_redacted_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "kT7/very+secret=value"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    with pytest.raises(RuntimeError), TrialLog("a trial") as log:
        log_secret(log, secret)
    assert secret not in log.text() + str(log.failure_note())
    assert log.text().count("[hidden]") == 3
    assert "false positives stay" in log.text()


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("http://user:pass@host/x", "http://[hidden]@host/x"),
        ("id AKIAIOSFODNN7EXAMPLE.", "id [hidden]."),
        ("get /x?X-Amz-Signature=0a1b&y=1", "get /x?X-Amz-Signature=[hidden]&y=1"),
        ("{'Authorization': 'Basic dXNlcjpw'}", "{'Authorization': '[hidden]'}"),
        ("sent Bearer abc.def-ghi", "sent Bearer [hidden]"),
        (
            "of http://127.0.0.1:8333/x, a bearer of news",
            "of http://127.0.0.1:8333/x, a bearer of news",
        ),
    ],
)
def test_what_looks_like_a_credential_is_redacted(text: str, redacted: str) -> None:
    assert redact_secrets(text) == redacted
