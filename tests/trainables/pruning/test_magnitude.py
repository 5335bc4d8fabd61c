"""Exact pruning against a slow reference: a full sort of float64 magnitudes, with ties by index."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor

from trainables.errors import InvariantError, TicketMismatch, TrainableError
from trainables.pruning import kept_count
from trainables.pruning.magnitude import prune, prune_tensors
from trainables.spec import ModelSpec, PruneSpec

MODEL = ModelSpec(architecture="uniter", size="tiny")
FEW_VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-42, 0.5, -0.5, 3e38])
ANY_VALUE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ARRAYS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=FEW_VALUES | ANY_VALUE
)
SPARSITIES = st.floats(0, 1)


def reference(
    weights: dict[str, Tensor], ticket: dict[str, NDArray[np.bool_]], count: int
) -> dict[str, NDArray[np.bool_]]:
    flat = np.concatenate([np.abs(w.numpy().astype(np.float64)).ravel() for w in weights.values()])
    allowed = np.concatenate([ticket[name].ravel() for name in weights])
    order = np.lexsort((np.arange(flat.size), -flat, ~allowed))
    mask = np.zeros(flat.size, bool)
    mask[order[:count]] = True
    masks, start = {}, 0
    for name, weight in weights.items():
        masks[name] = mask[start : start + weight.numel()].reshape(weight.shape)
        start += weight.numel()
    return masks


def spec(sparsity: float, scope: str = "global") -> PruneSpec:
    return PruneSpec(model=MODEL, sparsity=sparsity, scope=scope)  # type: ignore[arg-type]


def same(a: dict[str, NDArray[np.bool_]], b: dict[str, NDArray[np.bool_]]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@given(arrays=st.lists(ARRAYS, min_size=1, max_size=4), sparsity=SPARSITIES)
@settings(max_examples=150)
def test_global_pruning_equals_the_reference(
    arrays: list[NDArray[np.float32]], sparsity: float
) -> None:
    weights = {f"t{i}": torch.from_numpy(array) for i, array in enumerate(arrays)}
    total = sum(array.size for array in arrays)
    all_kept = {name: np.ones(weight.shape, bool) for name, weight in weights.items()}
    masks = prune(spec(sparsity), weights, None, None)
    assert same(masks, reference(weights, all_kept, kept_count(total, sparsity)))


@given(
    arrays=st.lists(ARRAYS, min_size=1, max_size=4),
    sparsities=st.tuples(SPARSITIES, SPARSITIES).map(sorted),
    data=st.data(),
)
@settings(max_examples=150)
def test_a_child_is_a_subset_of_its_parent_even_if_kept_weights_are_zero(
    arrays: list[NDArray[np.float32]], sparsities: list[float], data: st.DataObject
) -> None:
    weights = {f"t{i}": torch.from_numpy(array) for i, array in enumerate(arrays)}
    parent = prune(spec(sparsities[0]), weights, None, None)
    # After training the kept weights can have any value, including zeros and ties.
    trained = {
        name: torch.from_numpy(
            np.where(
                parent[name],
                data.draw(hnp.arrays(np.float32, weight.shape, elements=FEW_VALUES)),
                0,
            )
        ).float()
        for name, weight in weights.items()
    }
    child = prune(spec(sparsities[1]), trained, parent, None)
    total = sum(array.size for array in arrays)
    assert all((child[name] <= parent[name]).all() for name in parent)
    assert sum(mask.sum() for mask in child.values()) == kept_count(total, sparsities[1])
    assert same(child, reference(trained, parent, kept_count(total, sparsities[1])))


def test_ties_at_scale_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    # Rounding to bf16 gives hundreds of equal magnitudes at any threshold.
    weights = {
        f"t{i}": torch.randn(300, 400, generator=generator).bfloat16().float() for i in range(3)
    }
    all_kept = {name: np.ones(weight.shape, bool) for name, weight in weights.items()}
    masks = prune(spec(0.7), weights, None, None)
    assert same(masks, reference(weights, all_kept, 108_000))


def test_layer_scope_prunes_the_same_share_of_each_tensor() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {
        "small": 0.01 * torch.randn(10, 10, generator=generator),
        "large": torch.randn(7, 11, generator=generator),
    }
    layer = prune(spec(0.9, "layer"), weights, None, None)
    assert {name: int(mask.sum()) for name, mask in layer.items()} == {"small": 10, "large": 8}
    assert int(prune(spec(0.9), weights, None, None)["small"].sum()) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    weights = {"t": torch.tensor([[1.0, bad], [2.0, 3.0]])}
    with pytest.raises(InvariantError, match="not finite"):
        prune(spec(0.5), weights, None, None)


def test_a_ticket_cannot_keep_more_weights_than_its_parent() -> None:
    weights = {"t": torch.ones(4, 4)}
    parent = prune(spec(0.75), weights, None, None)
    with pytest.raises(TicketMismatch, match="higher sparsity"):
        prune(spec(0.5), weights, parent, None)


def test_the_applied_ticket_must_cover_the_pool() -> None:
    weights = {"t": torch.ones(4, 4), "u": torch.ones(4, 4)}
    with pytest.raises(TicketMismatch, match="pool"):
        prune(spec(0.75), weights, {"t": np.ones((4, 4), bool)}, None)


@given(arrays=st.lists(ARRAYS, min_size=1, max_size=4), sparsity=SPARSITIES)
@settings(max_examples=30)
def test_any_tensors_are_cut_as_the_pool_of_a_model_is(
    arrays: list[NDArray[np.float32]], sparsity: float
) -> None:
    weights = {f"t{i}": torch.from_numpy(array) for i, array in enumerate(arrays)}
    first = prune_tensors(weights, sparsity, scope="layer")
    assert same(first, prune(spec(sparsity, "layer"), weights, None, None))
    second = prune_tensors(weights, 1.0, ticket=first)
    assert not any(mask.any() for mask in second.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_ranked_by_its_exact_values(dtype: torch.dtype) -> None:
    weights = {"kernel": torch.tensor([[[[-3.0, 0.5], [1.0, 2.0]]]]).to(dtype)}
    masks = prune_tensors(weights, 0.5)
    assert masks["kernel"].tolist() == [[[[True, False], [False, True]]]]


@pytest.mark.parametrize(
    ("dtype", "sparsity", "message"),
    [(torch.float64, 0.5, "w is torch.float64"), (torch.float32, 1.5, "sparsity = 1.5")],
)
def test_what_cannot_be_ranked_exactly_is_refused(
    dtype: torch.dtype, sparsity: float, message: str
) -> None:
    with pytest.raises(TrainableError, match=message):
        prune_tensors({"w": torch.ones(2, 2, dtype=dtype)}, sparsity)
