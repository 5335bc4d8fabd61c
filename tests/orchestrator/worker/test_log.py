"""The log of a trial: what gets in, what stays out, and what is left of a long one."""

from __future__ import annotations

import logging
import re
import warnings
from threading import Thread

import pytest

from orchestrator.credentials import redacted
from orchestrator.worker.log import MOST_BYTES, TRACE_BYTES, TrialLog


def test_what_the_process_says_meanwhile_is_taken_down() -> None:
    with (
        warnings.catch_warnings(record=True) as still_shown,
        TrialLog("train uniter-tiny easy_vqa level 3") as log,
    ):
        warnings.simplefilter("always")
        log.say("starts")
        logging.getLogger("some.library").warning("%d things are odd", 3)
        warnings.warn("this is slow", UserWarning, stacklevel=1)
        thread = Thread(target=log.say, args=("from a thread",))
        thread.start()
        thread.join()
    assert [str(shown.message) for shown in still_shown] == ["this is slow"]
    logging.getLogger("some.library").warning("too late")
    heading, *lines = log.text().splitlines()
    assert heading.startswith("=== attempt 1 at train uniter-tiny easy_vqa level 3, 20")
    said = [re.sub(r"^\d\d:\d\d:\d\dZ ", "", line) for line in lines]
    assert said[:2] == ["starts", "WARNING some.library: 3 things are odd"]
    assert said[2].startswith("WARNING UserWarning: this is slow (")
    assert said[3] == "from a thread"
    assert re.fullmatch(r"ended after \d+\.\d s", said[4])
    assert len(said) == 5


def test_a_logger_that_keeps_its_records_to_itself_is_heard_too() -> None:
    logger = logging.getLogger("DeepSpeed")
    before, logger.propagate = logger.propagate, False
    try:
        with TrialLog("a trial") as log:
            logger.error("no such op")
    finally:
        logger.propagate = before
    assert "ERROR DeepSpeed: no such op" in log.text()


def test_attempts_follow_one_another() -> None:
    text = ""
    for _ in range(3):
        with TrialLog("a trial", text) as log:
            log.say("hello")
        text = log.text()
    assert re.findall(r"attempt (\d)", text) == ["1", "2", "3"]
    assert text.count("hello") == 3
    assert log.attempt == 3


def fail() -> None:
    raise ValueError("the cat is out")


def test_a_failure_leaves_its_traceback() -> None:
    with pytest.raises(ValueError, match="the cat"), TrialLog("a trial", "=== attempt 4\n") as log:
        fail()
    assert "by ValueError\nTraceback" in log.text()
    assert "in fail\n" in log.text()
    note = log.failure()
    assert note["attempts"] == 5
    assert note["host"]
    assert str(note["trace"]).endswith("ValueError: the cat is out\n")


def even(depth: int) -> None:
    """Two functions in turn, for of one that calls itself a traceback shows three frames."""
    odd(depth - 1) if depth else fail()


def odd(depth: int) -> None:
    even(depth - 1)


def test_a_long_traceback_keeps_its_end() -> None:
    with pytest.raises(ValueError, match="the cat"), TrialLog("a trial") as log:
        even(100)
    trace = str(log.failure()["trace"])
    assert len(trace.encode()) <= TRACE_BYTES
    assert trace.startswith("…")
    assert trace.endswith("ValueError: the cat is out\n")


def test_of_a_long_log_the_end_is_kept_and_it_still_counts_its_attempts() -> None:
    with TrialLog("a trial") as first:
        for number in range(6000):
            first.say(f"line {number} " + "ä" * 40)
    text = first.text()
    assert MOST_BYTES * 0.9 < len(text.encode()) <= MOST_BYTES
    assert "line 5999 " in text
    assert "line 0 " not in text
    with TrialLog("a trial", text) as second:
        pass
    assert second.attempt == 2
    assert "line 5999 " in second.text()
    assert len(second.text().encode()) <= MOST_BYTES


def leak(log: TrialLog, secret: str) -> None:
    log.say(f"key {secret}")
    logging.getLogger("botocore").warning("signing with %s", secret)
    log.say("false friends stay")
    raise RuntimeError(f"refused {secret}")


def test_no_credential_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "kT7/very+secret=value"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    with pytest.raises(RuntimeError), TrialLog("a trial") as log:
        leak(log, secret)
    assert secret not in log.text() + str(log.failure())
    assert log.text().count("[hidden]") == 3
    assert "false friends stay" in log.text()


@pytest.mark.parametrize(
    ("text", "told"),
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
def test_what_looks_like_a_credential_is_hidden(text: str, told: str) -> None:
    assert redacted(text) == told
