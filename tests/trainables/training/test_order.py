from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainables.distributed.collectives import Peers
from trainables.errors import RecipeError
from trainables.spec import Recipe
from trainables.training.order import (
    BUCKET_SIZE,
    SIZE_MULTIPLE,
    BatchOrder,
    assign_pieces,
    pieces_per_process,
    uniter_batches,
)

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=300).map(np.array)


def steps_of(order: BatchOrder, first: int, last: int) -> list[list[NDArray[np.int64]]]:
    return [order.micro_batches(step) for step in range(first, last)]


@given(lengths=LENGTHS, tokens=st.integers(40 * SIZE_MULTIPLE, 900), seed=st.integers(0, 3))
@settings(max_examples=60)
def test_an_epoch_has_every_example_once_within_the_token_limit(
    lengths: NDArray[np.int64], tokens: int, seed: int
) -> None:
    order = BatchOrder(Recipe(tokens=tokens), lengths, seed)
    step = 0
    for _ in range(3):
        examples: list[int] = []
        while len(examples) < len(lengths):
            (batch,) = order.micro_batches(step)
            assert lengths[batch].max() * len(batch) <= tokens
            examples += batch.tolist()
            step += 1
        assert sorted(examples) == list(range(len(lengths)))


def official_batches(bucket: list[int], lengths: list[int], tokens: int) -> list[list[int]]:
    """The loop of `TokenBucketSampler.__iter__` over one bucket, with `droplast`."""
    ordered = sorted(bucket, key=lambda example: lengths[example], reverse=True)
    batches: list[list[int]] = []
    batch: list[int] = []
    longest = 0
    for first in range(0, len(ordered), 8):
        chunk = ordered[first : first + 8]
        longest = max(longest, *(lengths[example] for example in chunk))
        if longest * (len(batch) + 8) > tokens:
            batches.append(batch)
            batch = []
        batch = batch + chunk
    return batches


@given(lengths=LENGTHS, tokens=st.integers(40 * 8, 900))
@settings(max_examples=100)
def test_uniter_batches_are_those_of_its_sampler(lengths: NDArray[np.int64], tokens: int) -> None:
    bucket = np.random.default_rng(0).permutation(len(lengths))
    batches = [batch.tolist() for batch in uniter_batches(bucket, lengths, tokens)]
    assert batches == official_batches(bucket.tolist(), lengths.tolist(), tokens)


def test_an_epoch_of_uniter_batches_drops_the_last_of_each_bucket() -> None:
    """5,120 tokens hold 128 examples of 40. Two buckets of 8,192 examples have 64 batches each, of
    which the last is dropped though it is complete; 1,000 more have 7, and the rest is dropped."""
    lengths = np.random.default_rng(0).integers(5, 41, 2 * 8192 + 1000)
    order = BatchOrder(Recipe(tokens=5120, token_batches="uniter"), lengths, 0)
    epoch = [order.micro_batches(step)[0] for step in range(63 + 63 + 7)]
    assert {len(batch) for batch in epoch} == {128}
    assert len(np.unique(np.concatenate(epoch))) == 128 * len(epoch)
    longest = [int(lengths[batch].max()) for batch in epoch]
    assert longest != sorted(longest, reverse=True)
    assert np.isin(order.micro_batches(len(epoch))[0], np.concatenate(epoch)).mean() > 0.5


def test_data_of_less_than_one_uniter_batch_are_still_trained_on() -> None:
    order = BatchOrder(Recipe(tokens=5120, token_batches="uniter"), np.full(20, 9), 0)
    for step in range(3):
        assert sorted(order.micro_batches(step)[0]) == list(range(20))


def test_a_batch_has_similar_lengths_and_batches_are_not_sorted_by_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 50, 5000)
    order = BatchOrder(Recipe(tokens=5120), lengths, 0)
    batches = [order.micro_batches(step)[0] for step in range(20)]
    padded_tokens = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert padded_tokens < 1.1 * sum(lengths[batch].sum() for batch in batches)
    longest = [int(lengths[batch].max()) for batch in batches]
    assert longest != sorted(longest)


def test_examples_are_sorted_by_length_within_buckets_only() -> None:
    """Otherwise every epoch would batch the same examples together."""
    lengths = np.arange(3 * BUCKET_SIZE) % 7 + 1
    order = BatchOrder(Recipe(tokens=7 * SIZE_MULTIPLE), lengths, 0)
    first = {frozenset(order.micro_batches(step)[0].tolist()) for step in range(50)}
    again = BatchOrder(Recipe(tokens=7 * SIZE_MULTIPLE), lengths, 1)
    second = {frozenset(again.micro_batches(step)[0].tolist()) for step in range(50)}
    assert not first & second


@pytest.mark.parametrize(("tokens", "token_batches"), [(0, "full"), (400, "full"), (400, "uniter")])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_order_depends_only_on_the_seed_and_the_step(
    tokens: int, token_batches: Literal["full", "uniter"], accumulate: int
) -> None:
    lengths = np.random.default_rng(0).integers(5, 50, 200)
    recipe = Recipe(
        tokens=tokens, token_batches=token_batches, batch_size=12, accumulate=accumulate
    )
    expected = steps_of(BatchOrder(recipe, lengths, 0), 0, 60)
    assert all(len(parts) == accumulate for parts in expected)
    # Resume in the middle of an epoch, and in another epoch.
    for first in (7, 55):
        resumed = steps_of(BatchOrder(recipe, lengths, 0), first, 60)
        for step, expected_step in zip(resumed, expected[first:], strict=True):
            for a, b in zip(step, expected_step, strict=True):
                np.testing.assert_array_equal(a, b)
    other = steps_of(BatchOrder(recipe, lengths, 1), 0, 5)
    assert any(
        not np.array_equal(a, b)
        for step, expected_step in zip(other, expected[:5], strict=True)
        for a, b in zip(step, expected_step, strict=True)
    )


def test_without_a_token_limit_all_batches_have_the_same_size() -> None:
    order = BatchOrder(Recipe(batch_size=12, accumulate=3), np.full(50, 9), 0)
    parts = [part for step in range(25) for part in order.micro_batches(step)]
    assert {len(part) for part in parts} == {4}
    order_of_run = np.concatenate(parts)
    for epoch in range(6):
        assert sorted(order_of_run[50 * epoch : 50 * (epoch + 1)]) == list(range(50))


def test_a_token_limit_below_the_longest_examples_is_refused() -> None:
    with pytest.raises(RecipeError, match=f"use {30 * SIZE_MULTIPLE} or more"):
        BatchOrder(Recipe(tokens=30 * SIZE_MULTIPLE - 1), np.array([3, 30, 4]), 0)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), count=st.integers(1, 8))
@settings(max_examples=100)
def test_processes_divide_a_step_and_weigh_its_examples_equally(
    sizes: list[int], count: int
) -> None:
    micro_batches = [np.arange(size) + 100 * number for number, size in enumerate(sizes)]
    shares = [assign_pieces(micro_batches, Peers(rank, count)) for rank in range(count)]
    each = pieces_per_process(len(sizes), Peers(0, count))
    assert {len(share) for share in shares} == {each}
    pieces = [piece for share in shares for piece in share]
    assert [piece.number for piece in pieces] == list(range(len(pieces)))
    weighted = [piece for piece in pieces if piece.loss_divisor != np.inf]
    assert np.concatenate([piece.indices for piece in weighted]).tolist() == [
        example for micro_batch in micro_batches for example in micro_batch
    ]
    # The weights are those of a mean over examples, and then over micro-batches.
    for piece in weighted:
        size = len(micro_batches[piece.indices[0] // 100])
        assert 1 / (piece.loss_divisor * len(piece.indices)) == pytest.approx(
            1 / (len(micro_batches) * size)
        )


def test_one_process_takes_full_micro_batches() -> None:
    micro_batches = [np.arange(3), np.arange(5)]
    assert [
        (p.indices.tolist(), p.number, p.loss_divisor)
        for p in assign_pieces(micro_batches, Peers())
    ] == [
        ([0, 1, 2], 0, 2),
        ([0, 1, 2, 3, 4], 1, 2),
    ]
