"""The global magnitude cut of a BERT-base: time, memory, exactness.

73 tensors, 85.5 M weights, 70 % pruned, one thread: by `trainables.pruning.magnitude`, by
`torch.nn.utils.prune.global_unstructured`, and by `torch.topk` over all magnitudes. Each runs in a
fresh process. Exact means: as many weights kept as asked for, and those that a full selection in
float32 keeps when ties go to the earlier weight. Weights rounded to bf16 have many ties.
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
from tests.benchmarks.table import Row
from trainables.pruning import kept_count, magnitude
from trainables.spec import CutSpec, ModelSpec

SPARSITY = 0.7


def shapes() -> list[tuple[int, int]]:
    """The encoder's matrices and the pooler's."""
    layer = [*[(768, 768)] * 4, (3072, 768), (768, 3072)]
    return [*layer * 12, (768, 768)]


def synthetic(*, rounded: bool) -> dict[str, Tensor]:
    """Normal weights whose scale differs from tensor to tensor by up to 3x, as trained ones' do."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for number, shape in enumerate(shapes()):
        scale = 0.02 * (1 + number * 29 % 73 / 36)
        weight = torch.empty(shape).normal_(std=scale, generator=generator)
        weights[f"{number}"] = weight.bfloat16().float() if rounded else weight
    return weights


Found = Sequence[Tensor | NDArray[np.bool_]]
"""Masks in the order of the weights, flat or not."""


def ours(weights: dict[str, Tensor], kept: int) -> Found:
    spec = CutSpec(model=ModelSpec(architecture="uniter"), sparsity=SPARSITY)
    return list(magnitude.cut(spec, weights, None, None).values())


def stock(weights: dict[str, Tensor], kept: int) -> Found:
    layers = [nn.Linear(1, 1, bias=False) for _ in weights]
    for layer, weight in zip(layers, weights.values(), strict=True):
        layer.weight = nn.Parameter(weight, requires_grad=False)
    total = sum(weight.numel() for weight in weights.values())
    prune.global_unstructured(
        [(layer, "weight") for layer in layers],
        pruning_method=prune.L1Unstructured,
        amount=total - kept,
    )
    return [buffer for layer in layers for buffer in layer.buffers()]


def topk(weights: dict[str, Tensor], kept: int) -> Found:
    sizes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    largest = torch.topk(sizes, kept, sorted=False).indices
    mask = torch.zeros(len(sizes), dtype=torch.bool)
    mask[largest] = True
    return list(torch.split(mask, [weight.numel() for weight in weights.values()]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    cost: Cost
    beyond: int
    """Weights kept more than asked for."""
    elsewhere: int
    """Weights kept or pruned other than by the reference."""


def judge(contestant: Callable[[dict[str, Tensor], int], Found], rounded: bool) -> Verdict:
    torch.set_num_threads(1)
    weights = synthetic(rounded=rounded)
    kept = kept_count(sum(weight.numel() for weight in weights.values()), SPARSITY)
    masks, cost = measured(lambda: contestant(weights, kept))
    found = np.concatenate([np.asarray(mask, dtype=bool).ravel() for mask in masks])
    differ = int(np.count_nonzero(found != _reference(weights, kept)))
    return Verdict(cost=cost, beyond=int(np.count_nonzero(found)) - kept, elsewhere=differ)


def _reference(weights: dict[str, Tensor], kept: int) -> NDArray[np.bool_]:
    sizes = np.concatenate([np.abs(weight.numpy()).ravel() for weight in weights.values()])
    place = len(sizes) - kept
    threshold = np.partition(sizes, place)[place]
    mask: NDArray[np.bool_] = sizes > threshold
    tied = np.flatnonzero(sizes == threshold)
    mask[tied[: kept - np.count_nonzero(mask)]] = True
    return mask


def run() -> Iterator[Row]:
    distinct = {one: alone(judge, one, False) for one in (ours, stock, topk)}
    tied = {one: alone(judge, one, True) for one in (ours, stock, topk)}
    mine = distinct[ours].cost
    for other, name, limit in ((stock, "prune.global_unstructured", 10), (topk, "torch.topk", 0)):
        cost = distinct[other].cost
        ratio = cost.seconds / mine.seconds
        yield Row(
            what="cut of 85.5 M weights to 30 %, CPU time",
            ours=f"{mine.seconds:.2f} s",
            other=f"{name}: {cost.seconds:.2f} s",
            ratio=f"{ratio:.1f}x",
            limit=f"≥ {limit}" if limit else "",
            met=ratio >= limit if limit else None,
        )
        yield Row(
            what="the same, peak memory beyond the weights",
            ours=f"{mine.peak_mb:.0f} MiB",
            other=f"{name}: {cost.peak_mb:.0f} MiB",
            ratio=f"{cost.peak_mb / mine.peak_mb:.1f}x",
        )
    for verdicts, what in ((distinct, "float32 weights"), (tied, "weights rounded to bf16")):
        exact = verdicts[ours].beyond == verdicts[ours].elsewhere == 0
        yield Row(
            what=f"the same, weights too many / misplaced among ties, {what}",
            ours=_errors(verdicts[ours]),
            other=f"global_unstructured: {_errors(verdicts[stock])}; "
            f"topk: {_errors(verdicts[topk])}",
            ratio="",
            limit="0 / 0",
            met=exact,
        )


def _errors(verdict: Verdict) -> str:
    return f"{verdict.beyond:,} / {verdict.elsewhere:,}"
