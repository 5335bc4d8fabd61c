from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from orchestrator.errors import Damaged, InputError
from orchestrator.store import parquet
from orchestrator.store.ticket import Mask, Ticket, compare, count_bits

GOLDEN = "7fc0a048411efd0bcab8c06088c6c4994e6c57ea7b4dce7fb4a324518b05ce3e"


def make(masks: dict[str, Mask], pool: str = "encoder+pooler") -> Ticket:
    return Ticket.from_masks(masks, scheme="uniter", model_sha256="ab" * 32, pool=pool)


odd_masks = st.dictionaries(
    st.text(min_size=1, max_size=20),
    arrays.arrays(np.bool_, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=19)),
    max_size=5,
)


@given(odd_masks)
def test_masks_survive_packing_and_parquet(masks: dict[str, Mask]) -> None:
    ticket = make(masks)
    back = parquet.decode(parquet.encode(ticket), ticket.sha256, where="memory")
    assert back == ticket
    assert back.sha256 == ticket.sha256
    assert list(back.masks()) == list(masks)
    for name, mask in back.masks().items():
        np.testing.assert_array_equal(mask, masks[name])
        assert mask.shape == masks[name].shape
    assert ticket.kept == sum(int(mask.sum()) for mask in masks.values())
    assert ticket.total == sum(mask.size for mask in masks.values())


def test_the_memory_order_of_a_mask_does_not_matter() -> None:
    mask = np.random.default_rng(0).random((5, 9)) > 0.5
    assert make({"w": np.asfortranarray(mask)}) == make({"w": mask})


def test_the_hash_is_what_it_always_was() -> None:
    """Tickets of earlier versions must keep their names."""
    masks = {
        "layer.0.weight": np.arange(15).reshape(3, 5) % 2 == 0,
        "layer.1.weight": np.arange(8).reshape(2, 4) < 3,
    }
    assert make(masks).sha256 == GOLDEN
    assert [tensor.bits.hex() for tensor in make(masks).tensors] == ["5555", "07"]


def test_whatever_a_ticket_says_is_in_its_hash() -> None:
    mask = np.array([[True, False, True], [False, True, True]])
    tickets = [
        make({"w": mask}),
        make({"v": mask}),
        make({"w": ~mask}),
        make({"w": mask.reshape(3, 2)}),
        make({"w": mask.reshape(6)}),
        make({"w": mask}, pool="encoder"),
        make({"w": mask[:1], "x": mask[1:]}),
        make({"x": mask[1:], "w": mask[:1]}),
        make({}),
    ]
    assert len({ticket.sha256 for ticket in tickets}) == len(tickets)


def test_a_mask_of_numbers_is_refused() -> None:
    with pytest.raises(TypeError, match="float64"):
        make({"w": np.ones((2, 2))})  # type: ignore[dict-item]


def test_one_flipped_bit_anywhere_is_found_or_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    ticket = make({"query": rng.random((7, 5)) > 0.5, "key": rng.random((3, 3)) > 0.5})
    data = parquet.encode(ticket)
    found = 0
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        try:
            assert parquet.decode(bytes(flipped), ticket.sha256, where="flipped") == ticket
        except Damaged:
            found += 1
    assert found > sum(len(tensor.bits) + 32 for tensor in ticket.tensors)


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_truncated_file_is_damaged(cut: int) -> None:
    ticket = make({"w": np.ones((2, 2), np.bool_)})
    data = parquet.encode(ticket)
    with pytest.raises(Damaged, match=r"^s3://b/x\.parquet: damaged ticket"):
        parquet.decode(data[:cut], ticket.sha256, where="s3://b/x.parquet")


@given(arrays.arrays(np.bool_, st.integers(0, 300)), st.integers(0, 2**32 - 1))
def test_bits_are_counted_exactly(mask: Mask, seed: int) -> None:
    other = np.random.default_rng(seed).random(mask.size) > 0.5
    a, b = (np.packbits(m, bitorder="little").tobytes() for m in (mask, other))
    assert count_bits(a) == mask.sum()
    assert count_bits(a, b) == (mask & other).sum()


def test_overlap_of_known_masks() -> None:
    a = make({"w": np.array([1, 1, 0, 0], np.bool_), "v": np.array([1, 0], np.bool_)})
    b = make({"w": np.array([1, 0, 1, 0], np.bool_), "v": np.array([1, 0], np.bool_)})
    result = compare(a, b)
    assert [(layer.name, layer.both) for layer in result.layers] == [("w", 1), ("v", 1)]
    assert result.layers[0].jaccard == pytest.approx(1 / 3)
    assert result.layers[0].chance == pytest.approx(0.25 / 0.75)
    assert result.layers[1].jaccard == 1.0
    assert (result.total.size, result.total.both) == (6, 2)
    assert result.total.jaccard == pytest.approx(2 / 4)


def test_unrelated_masks_overlap_as_chance_says() -> None:
    """Two layers of unequal density: the total exceeds the chance level of the whole, and meets the
    one that knows the layers. With 10^6 bits the standard error is below 0.001."""
    rng = np.random.default_rng(0)

    def draw() -> Ticket:
        return make({"w": rng.random(500_000) < 0.9, "v": rng.random(500_000) < 0.1})

    result = compare(draw(), draw())
    for layer in result.layers:
        assert layer.jaccard == pytest.approx(layer.chance, abs=0.004)
    assert result.total.jaccard == pytest.approx(result.layerwise_chance, abs=0.004)
    assert result.layerwise_chance > result.total.chance + 0.1


def test_a_ticket_overlaps_itself_fully_and_an_empty_one_too() -> None:
    for mask in (np.ones(9, np.bool_), np.zeros(9, np.bool_), np.arange(9) > 4):
        assert compare(make({"w": mask}), make({"w": mask})).total.jaccard == 1.0


def test_tickets_of_different_models_are_not_compared() -> None:
    a, b = (make({"w": np.ones(size, np.bool_)}) for size in (4, 5))
    with pytest.raises(InputError, match="different tensors"):
        compare(a, b)
