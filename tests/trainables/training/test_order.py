from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainables.distributed.collectives import Peers
from trainables.errors import RecipeError
from trainables.spec import Recipe
from trainables.training.order import BUCKET, GROUP, Order, pieces, pieces_each

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=300).map(np.array)


def steps_of(order: Order, first: int, last: int) -> list[list[NDArray[np.int64]]]:
    return [order.micro_batches(step) for step in range(first, last)]


@given(lengths=LENGTHS, tokens=st.integers(40 * GROUP, 900), seed=st.integers(0, 3))
@settings(max_examples=60)
def test_an_epoch_holds_every_example_once_within_the_limit(
    lengths: NDArray[np.int64], tokens: int, seed: int
) -> None:
    order = Order(Recipe(tokens=tokens), lengths, seed)
    step = 0
    for _ in range(3):
        seen: list[int] = []
        while len(seen) < len(lengths):
            (batch,) = order.micro_batches(step)
            assert lengths[batch].max() * len(batch) <= tokens
            seen += batch.tolist()
            step += 1
        assert sorted(seen) == list(range(len(lengths)))


def test_examples_of_a_batch_are_of_like_length_and_batches_in_no_order_of_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 50, 5000)
    order = Order(Recipe(tokens=5120), lengths, 0)
    batches = [order.micro_batches(step)[0] for step in range(20)]
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths[batch].sum() for batch in batches)
    longest = [int(lengths[batch].max()) for batch in batches]
    assert longest != sorted(longest)


def test_buckets_bound_what_is_sorted_together() -> None:
    """Else every epoch would put the same examples side by side."""
    lengths = np.arange(3 * BUCKET) % 7 + 1
    order = Order(Recipe(tokens=7 * GROUP), lengths, 0)
    first = {frozenset(order.micro_batches(step)[0].tolist()) for step in range(50)}
    again = Order(Recipe(tokens=7 * GROUP), lengths, 1)
    second = {frozenset(again.micro_batches(step)[0].tolist()) for step in range(50)}
    assert not first & second


@pytest.mark.parametrize("tokens", [0, 400])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_order_depends_on_the_seed_and_the_step_only(tokens: int, accumulate: int) -> None:
    lengths = np.random.default_rng(0).integers(5, 50, 200)
    recipe = Recipe(tokens=tokens, batch_size=12, accumulate=accumulate)
    whole = steps_of(Order(recipe, lengths, 0), 0, 60)
    assert all(len(parts) == accumulate for parts in whole)
    # Resumed in the middle of an epoch, and in another one.
    for first in (7, 55):
        rest = steps_of(Order(recipe, lengths, 0), first, 60)
        for ours, theirs in zip(rest, whole[first:], strict=True):
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(a, b)
    other = steps_of(Order(recipe, lengths, 1), 0, 5)
    assert any(
        not np.array_equal(a, b)
        for ours, theirs in zip(other, whole[:5], strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )


def test_without_a_token_limit_batches_are_of_one_size() -> None:
    order = Order(Recipe(batch_size=12, accumulate=3), np.full(50, 9), 0)
    parts = [part for step in range(25) for part in order.micro_batches(step)]
    assert {len(part) for part in parts} == {4}
    places = np.concatenate(parts)
    for epoch in range(6):
        assert sorted(places[50 * epoch : 50 * (epoch + 1)]) == list(range(50))


def test_a_limit_that_the_longest_examples_do_not_fit_is_refused() -> None:
    with pytest.raises(RecipeError, match=f"use {30 * GROUP} or more"):
        Order(Recipe(tokens=30 * GROUP - 1), np.array([3, 30, 4]), 0)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), count=st.integers(1, 8))
@settings(max_examples=100)
def test_processes_share_a_step_whole_and_weigh_it_alike(sizes: list[int], count: int) -> None:
    micros = [np.arange(size) + 100 * micro for micro, size in enumerate(sizes)]
    shares = [pieces(micros, Peers(rank, count)) for rank in range(count)]
    each = pieces_each(len(sizes), Peers(0, count))
    assert {len(share) for share in shares} == {each}
    every = [piece for share in shares for piece in share]
    assert [piece.place for piece in every] == list(range(len(every)))
    weighed = [piece for piece in every if piece.parts != np.inf]
    assert np.concatenate([piece.indices for piece in weighed]).tolist() == [
        example for micro in micros for example in micro
    ]
    # An example's weight: that of a mean over examples, then over micro-batches.
    for piece in weighed:
        own = len(micros[piece.indices[0] // 100])
        assert 1 / (piece.parts * len(piece.indices)) == pytest.approx(1 / (len(micros) * own))


def test_one_process_takes_the_micro_batches_as_they_are() -> None:
    micros = [np.arange(3), np.arange(5)]
    assert [(p.indices.tolist(), p.place, p.parts) for p in pieces(micros, Peers())] == [
        ([0, 1, 2], 0, 2),
        ([0, 1, 2, 3, 4], 1, 2),
    ]
