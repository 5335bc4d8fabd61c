"""Global magnitude pruning of a BERT-base: time, memory and exactness.

73 tensors, 85.5 M weights, 70 % pruned, one thread: by `trainables.pruning.magnitude`, by
`torch.nn.utils.prune.global_unstructured`, and by `torch.topk` over all magnitudes. Each runs in a
fresh process. A result is exact if it keeps the requested number of weights, and those that a full
selection in float32 keeps if ties go to the earlier weight. Weights rounded to bf16 have many ties.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.benchmarks.alone import Cost, alone, measured
from tests.benchmarks.size import sized
from tests.benchmarks.table import Row
from trainables.pruning import kept_count, magnitude
from trainables.spec import ModelSpec, PruneSpec

SPARSITY = 0.7
LAYERS = sized(12, smoke=1)


def shapes() -> list[tuple[int, int]]:
    """Return the shapes of the encoder's and the pooler's matrices."""
    layer = [*[(768, 768)] * 4, (3072, 768), (768, 3072)]
    return [*layer * LAYERS, (768, 768)]


def synthetic(*, rounded: bool) -> dict[str, Tensor]:
    """Return normal weights whose scale differs between tensors by up to 3x, like trained
    weights."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for number, shape in enumerate(shapes()):
        scale = 0.02 * (1 + number * 29 % 73 / 36)
        weight = torch.empty(shape).normal_(std=scale, generator=generator)
        weights[f"{number}"] = weight.bfloat16().float() if rounded else weight
    return weights


MaskList = Sequence[Tensor | NDArray[np.bool_]]
"""Masks in the order of the weights, flat or not."""


def ours(weights: dict[str, Tensor], count: int) -> MaskList:
    spec = PruneSpec(model=ModelSpec(architecture="uniter"), sparsity=SPARSITY)
    return list(magnitude.prune(spec, weights, None, None).values())


def global_unstructured(weights: dict[str, Tensor], count: int) -> MaskList:
    layers = [nn.Linear(1, 1, bias=False) for _ in weights]
    for layer, weight in zip(layers, weights.values(), strict=True):
        layer.weight = nn.Parameter(weight, requires_grad=False)
    total = sum(weight.numel() for weight in weights.values())
    prune.global_unstructured(
        [(layer, "weight") for layer in layers],
        pruning_method=prune.L1Unstructured,
        amount=total - count,
    )
    return [buffer for layer in layers for buffer in layer.buffers()]


def topk(weights: dict[str, Tensor], count: int) -> MaskList:
    sizes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    largest = torch.topk(sizes, count, sorted=False).indices
    mask = torch.zeros(len(sizes), dtype=torch.bool)
    mask[largest] = True
    return list(torch.split(mask, [weight.numel() for weight in weights.values()]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    cost: Cost
    excess: int
    """Number of kept weights minus the requested number."""
    differing: int
    """Number of weights that the reference treats differently."""


def measure(method: Callable[[dict[str, Tensor], int], MaskList], rounded: bool) -> Measurement:
    torch.set_num_threads(1)
    weights = synthetic(rounded=rounded)
    count = kept_count(sum(weight.numel() for weight in weights.values()), SPARSITY)
    masks, cost = measured(lambda: method(weights, count))
    mask = np.concatenate([np.asarray(each, dtype=bool).ravel() for each in masks])
    differing = int(np.count_nonzero(mask != _reference(weights, count)))
    return Measurement(cost=cost, excess=int(np.count_nonzero(mask)) - count, differing=differing)


def _reference(weights: dict[str, Tensor], count: int) -> NDArray[np.bool_]:
    sizes = np.concatenate([np.abs(weight.numpy()).ravel() for weight in weights.values()])
    index = len(sizes) - count
    threshold = np.partition(sizes, index)[index]
    mask: NDArray[np.bool_] = sizes > threshold
    tied = np.flatnonzero(sizes == threshold)
    mask[tied[: count - np.count_nonzero(mask)]] = True
    return mask


def run() -> Iterator[Row]:
    methods = (ours, global_unstructured, topk)
    distinct = {method: alone(measure, method, False) for method in methods}
    tied = {method: alone(measure, method, True) for method in methods}
    millions = sum(rows * columns for rows, columns in shapes()) / 1e6
    our_cost = distinct[ours].cost
    for other, name, limit in (
        (global_unstructured, "prune.global_unstructured", 10),
        (topk, "torch.topk", 0),
    ):
        cost = distinct[other].cost
        ratio = cost.seconds / our_cost.seconds
        yield Row(
            what=f"pruning {millions:.1f} M weights to 30 %, CPU time",
            ours=f"{our_cost.seconds:.2f} s",
            other=f"{name}: {cost.seconds:.2f} s",
            ratio=f"{ratio:.1f}x",
            limit=f"≥ {limit}" if limit else "",
            met=ratio >= limit if limit else None,
        )
        yield Row(
            what="the same, peak memory beyond the weights",
            ours=f"{our_cost.peak_mb:.0f} MiB",
            other=f"{name}: {cost.peak_mb:.0f} MiB",
            ratio=f"{cost.peak_mb / our_cost.peak_mb:.1f}x",
        )
    for results, what in ((distinct, "float32 weights"), (tied, "weights rounded to bf16")):
        exact = results[ours].excess == results[ours].differing == 0
        yield Row(
            what=f"the same, weights too many / misplaced among ties, {what}",
            ours=_errors(results[ours]),
            other=f"global_unstructured: {_errors(results[global_unstructured])}; "
            f"topk: {_errors(results[topk])}",
            ratio="",
            limit="0 / 0",
            met=exact,
        )


def _errors(result: Measurement) -> str:
    return f"{result.excess:,} / {result.differing:,}"
