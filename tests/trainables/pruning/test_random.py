from __future__ import annotations

import numpy as np
import pytest

from trainables.errors import TicketMismatch
from trainables.pruning.random import prune
from trainables.spec import ModelSpec, PruneSpec

MODEL = ModelSpec(architecture="uniter", size="tiny")
SHAPES = {"a": (64, 64), "b": (64, 256), "c": (7, 3)}
TOTAL = 64 * 64 + 64 * 256 + 21


def spec(sparsity: float, seed: int = 0, scope: str = "global") -> PruneSpec:
    return PruneSpec(model=MODEL, method="random", sparsity=sparsity, seed=seed, scope=scope)  # type: ignore[arg-type]


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_global_count_is_exact(sparsity: float) -> None:
    masks = prune(spec(sparsity), SHAPES, None, None)
    assert {name: mask.shape for name, mask in masks.items()} == SHAPES
    assert sum(int(mask.sum()) for mask in masks.values()) == TOTAL - round(TOTAL * sparsity)


def test_a_layerwise_ticket_copies_the_counts_of_its_reference() -> None:
    reference = {name: np.zeros(shape, bool) for name, shape in SHAPES.items()}
    reference["a"][:5] = True
    reference["c"][2, 1] = True
    masks = prune(spec(0.9), SHAPES, None, reference)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"a": 320, "b": 0, "c": 1}


def test_layer_scope_keeps_the_same_share_of_each_tensor() -> None:
    masks = prune(spec(0.5, scope="layer"), SHAPES, None, None)
    assert [int(mask.sum()) for mask in masks.values()] == [2048, 8192, 11]


def test_seeds_are_independent_and_every_weight_has_the_same_probability() -> None:
    draws = np.stack([prune(spec(0.5, seed), SHAPES, None, None)["a"] for seed in range(64)])
    # A weight is kept in 32 +- 4 of 64 draws; 6 standard deviations cover 4,096 weights.
    assert np.abs(draws.sum(0) - 32).max() < 24
    overlap = (draws[0] & draws[1]).mean()
    assert abs(overlap - 0.25) < 0.04


def test_a_draw_within_a_ticket_is_a_subset_of_it() -> None:
    parent = prune(spec(0.5, seed=1), SHAPES, None, None)
    child = prune(spec(0.8), SHAPES, parent, None)
    assert sum(int(mask.sum()) for mask in child.values()) == TOTAL - round(TOTAL * 0.8)
    assert not any((child[name] & ~parent[name]).any() for name in SHAPES)


def test_global_and_layer_matched_controls_of_one_seed_are_unrelated() -> None:
    global_masks = prune(spec(0.5), SHAPES, None, None)
    matched = prune(spec(0.5, scope="layer"), SHAPES, None, global_masks)
    overlap = (global_masks["b"] & matched["b"]).mean()
    assert abs(overlap - 0.25) < 0.02


def test_the_draw_is_pinned() -> None:
    """Changing it would silently change every random ticket behind an unchanged key."""
    masks = prune(spec(0.5), SHAPES, None, None)
    assert np.flatnonzero(masks["c"]).tolist() == [0, 1, 2, 5, 6, 7, 10, 12, 13, 19, 20]


def test_a_ticket_of_another_model_cannot_be_copied() -> None:
    with pytest.raises(TicketMismatch):
        prune(spec(0.5), SHAPES, None, {"a": np.ones((64, 64), bool)})
