"""Prefetched items are the same, in the same order, errors included."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from trainables.training.prefetch import prefetch

PATIENCE_S = 30.0


def test_the_next_item_is_prepared_while_the_caller_has_the_current_one() -> None:
    started = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number, event in enumerate(started):
            event.set()
            yield number

    received = []
    for number in prefetch(items()):
        received.append(number)
        assert all(event.wait(PATIENCE_S) for event in started[: number + 2])
        assert not any(event.is_set() for event in started[number + 2 :]), "only one item ahead"
    assert received == [0, 1, 2, 3]


def test_an_error_is_raised_when_its_item_is_due() -> None:
    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise OSError("the file is damaged")

    prefetched = prefetch(items())
    assert [next(prefetched), next(prefetched)] == [0, 1]
    with pytest.raises(OSError, match="damaged"):
        next(prefetched)


def test_stopping_early_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    with closing(prefetch(iter(int, 1))) as endless:
        assert [next(endless) for _ in range(3)] == [0, 0, 0]
    assert set(threading.enumerate()) <= before


def test_an_empty_iterable_gives_no_items() -> None:
    assert list(prefetch([])) == []
