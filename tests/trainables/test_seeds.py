from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainables.seeds import batch_indices, derive, permutation


@given(
    count=st.integers(1, 40),
    batch=st.integers(1, 50),
    seed=st.integers(0, 5),
    steps=st.integers(1, 9),
)
def test_consecutive_batches_form_complete_epochs(
    count: int, batch: int, seed: int, steps: int
) -> None:
    order = np.concatenate([batch_indices(count, batch, seed, step) for step in range(steps)])
    assert len(order) == batch * steps
    for start in range(0, len(order) - count + 1, count):
        assert sorted(order[start : start + count]) == list(range(count))


def test_epochs_and_seeds_have_different_orders() -> None:
    first, second = (batch_indices(1000, 1000, 0, step) for step in (0, 1))
    other = batch_indices(1000, 1000, 1, 0)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_draws_are_pinned() -> None:
    """Changing them would silently change every trial behind an unchanged key."""
    assert derive(0, "dropout", 7) == 1434388366805399882
    assert permutation(8, 0, "epoch", 0).tolist() == [4, 1, 5, 2, 3, 0, 6, 7]


def test_different_parts_give_different_seeds() -> None:
    seeds = {derive(1, "a"), derive("1", "a"), derive(1, "a", ""), derive("1a"), derive(11, "a")}
    assert len(seeds) == 5
