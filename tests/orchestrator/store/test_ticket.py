from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from orchestrator.errors import Damaged, InputError
from orchestrator.store import parquet
from orchestrator.store.ticket import BoolArray, Ticket, compare_tickets, count_bits

GOLDEN = "7fc0a048411efd0bcab8c06088c6c4994e6c57ea7b4dce7fb4a324518b05ce3e"


def ticket_of(masks: dict[str, BoolArray], pool: str = "encoder+pooler") -> Ticket:
    return Ticket.from_arrays(masks, architecture="uniter", model_sha256="ab" * 32, pool=pool)


any_masks = st.dictionaries(
    st.text(min_size=1, max_size=20),
    arrays.arrays(np.bool_, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=19)),
    max_size=5,
)


@given(any_masks)
def test_masks_survive_packing_and_parquet(masks: dict[str, BoolArray]) -> None:
    ticket = ticket_of(masks)
    decoded = parquet.decode_ticket(parquet.encode_ticket(ticket), ticket.sha256, where="memory")
    assert decoded == ticket
    assert decoded.sha256 == ticket.sha256
    assert list(decoded.arrays()) == list(masks)
    for name, mask in decoded.arrays().items():
        np.testing.assert_array_equal(mask, masks[name])
        assert mask.shape == masks[name].shape
    assert ticket.kept == sum(int(mask.sum()) for mask in masks.values())
    assert ticket.total == sum(mask.size for mask in masks.values())


def test_the_memory_order_of_a_mask_does_not_matter() -> None:
    mask = np.random.default_rng(0).random((5, 9)) > 0.5
    assert ticket_of({"w": np.asfortranarray(mask)}) == ticket_of({"w": mask})


def test_the_hash_is_unchanged() -> None:
    """Tickets of earlier versions must keep their names."""
    masks = {
        "layer.0.weight": np.arange(15).reshape(3, 5) % 2 == 0,
        "layer.1.weight": np.arange(8).reshape(2, 4) < 3,
    }
    assert ticket_of(masks).sha256 == GOLDEN
    assert [tensor.bits.hex() for tensor in ticket_of(masks).tensors] == ["5555", "07"]


def test_the_hash_covers_the_complete_content() -> None:
    mask = np.array([[True, False, True], [False, True, True]])
    scores = {"w": np.ones((2, 3), np.float32)}
    tickets = [
        replace(ticket_of({"w": mask}), kind="blocks"),
        Ticket.from_arrays(
            {"w": mask},
            architecture="uniter",
            model_sha256="ab" * 32,
            pool="encoder+pooler",
            scores=scores,
        ),
        ticket_of({"w": mask}),
        ticket_of({"v": mask}),
        ticket_of({"w": ~mask}),
        ticket_of({"w": mask.reshape(3, 2)}),
        ticket_of({"w": mask.reshape(6)}),
        ticket_of({"w": mask}, pool="encoder"),
        ticket_of({"w": mask[:1], "x": mask[1:]}),
        ticket_of({"x": mask[1:], "w": mask[:1]}),
        ticket_of({}),
    ]
    assert len({ticket.sha256 for ticket in tickets}) == len(tickets)


def test_a_mask_of_numbers_is_refused() -> None:
    with pytest.raises(TypeError, match="float64"):
        ticket_of({"w": np.ones((2, 2))})  # type: ignore[dict-item]


def test_a_flipped_bit_is_detected_or_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    ticket = ticket_of({"query": rng.random((7, 5)) > 0.5, "key": rng.random((3, 3)) > 0.5})
    data = parquet.encode_ticket(ticket)
    detected = 0
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        try:
            assert parquet.decode_ticket(bytes(flipped), ticket.sha256, where="flipped") == ticket
        except Damaged:
            detected += 1
    assert detected > sum(len(tensor.bits) + 32 for tensor in ticket.tensors)


@pytest.mark.parametrize("end", [0, 1, 100, -1])
def test_a_truncated_file_is_damaged(end: int) -> None:
    ticket = ticket_of({"w": np.ones((2, 2), np.bool_)})
    data = parquet.encode_ticket(ticket)
    with pytest.raises(Damaged, match=r"^s3://b/x\.parquet: damaged ticket"):
        parquet.decode_ticket(data[:end], ticket.sha256, where="s3://b/x.parquet")


@given(arrays.arrays(np.bool_, st.integers(0, 300)), st.integers(0, 2**32 - 1))
def test_bits_are_counted_exactly(mask: BoolArray, seed: int) -> None:
    other = np.random.default_rng(seed).random(mask.size) > 0.5
    a, b = (np.packbits(m, bitorder="little").tobytes() for m in (mask, other))
    assert count_bits(a) == mask.sum()
    assert count_bits(a, b) == (mask & other).sum()


def test_overlap_of_known_masks() -> None:
    a = ticket_of({"w": np.array([1, 1, 0, 0], np.bool_), "v": np.array([1, 0], np.bool_)})
    b = ticket_of({"w": np.array([1, 0, 1, 0], np.bool_), "v": np.array([1, 0], np.bool_)})
    result = compare_tickets(a, b)
    assert [(layer.name, layer.kept_both) for layer in result.layers] == [("w", 1), ("v", 1)]
    assert result.layers[0].jaccard == pytest.approx(1 / 3)
    assert result.layers[0].chance == pytest.approx(0.25 / 0.75)
    assert result.layers[1].jaccard == 1.0
    assert (result.total.size, result.total.kept_both) == (6, 2)
    assert result.total.jaccard == pytest.approx(2 / 4)


def test_unrelated_masks_overlap_at_chance_level() -> None:
    """For two layers of unequal density, the total exceeds its own chance level and equals the
    layerwise one. With 10^6 bits the standard error is below 0.001."""
    rng = np.random.default_rng(0)

    def random_ticket() -> Ticket:
        return ticket_of({"w": rng.random(500_000) < 0.9, "v": rng.random(500_000) < 0.1})

    result = compare_tickets(random_ticket(), random_ticket())
    for layer in result.layers:
        assert layer.jaccard == pytest.approx(layer.chance, abs=0.004)
    assert result.total.jaccard == pytest.approx(result.layerwise_chance, abs=0.004)
    assert result.layerwise_chance > result.total.chance + 0.1


def test_a_ticket_overlaps_itself_fully_even_if_it_is_empty() -> None:
    for mask in (np.ones(9, np.bool_), np.zeros(9, np.bool_), np.arange(9) > 4):
        assert compare_tickets(ticket_of({"w": mask}), ticket_of({"w": mask})).total.jaccard == 1.0


def test_comparing_tickets_of_different_models_is_refused() -> None:
    a, b = (ticket_of({"w": np.ones(size, np.bool_)}) for size in (4, 5))
    with pytest.raises(InputError, match="different tensors"):
        compare_tickets(a, b)
