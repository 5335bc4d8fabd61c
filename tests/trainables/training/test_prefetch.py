"""What is made ahead is the same, at the same place, errors included."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from trainables.training.prefetch import ahead

PATIENCE_S = 30.0


def test_the_next_item_is_made_while_the_caller_is_at_this_one() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    seen = []
    for number in ahead(items()):
        seen.append(number)
        assert all(event.wait(PATIENCE_S) for event in made[: number + 2])
        assert not any(event.is_set() for event in made[number + 2 :]), "one ahead is enough"
    assert seen == [0, 1, 2, 3]


def test_an_error_comes_when_its_item_is_due() -> None:
    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise OSError("the file is damaged")

    coming = ahead(items())
    assert [next(coming), next(coming)] == [0, 1]
    with pytest.raises(OSError, match="damaged"):
        next(coming)


def test_whoever_stops_early_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    with closing(ahead(iter(int, 1))) as endless:
        assert [next(endless) for _ in range(3)] == [0, 0, 0]
    assert set(threading.enumerate()) <= before


def test_nothing_is_nothing() -> None:
    assert list(ahead([])) == []
