"""A ticket kind and a pruning method that searches, in one file of a user's own: skipped blocks.

A block is the last matrix of an attention or of a feed-forward network in the encoder. A skipped
block is not computed; only its residual connection is left. The search gives each block a gate, by
which its output is multiplied, and trains the gates with the weights. Small noise on the gates is
drawn at every training step, and the mean over the steps scores the blocks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.errors import TicketMismatch
from trainables.models.base import Backbone
from trainables.pruning import PruneMethod, kept_count
from trainables.spec import PruneSpec, TrainSpec
from trainables.tickets import TicketKind
from trainables.tickets.base import Applied, Budget, Masks, Scores, Space, Ticket, check_fit

TICKET_KIND = TicketKind(
    module=__name__, units="blocks", violation="passes ran a block that is skipped"
)
PRUNER = PruneMethod(module=__name__, needs="search", kinds=("toy_search",))
PENALTY = 0.1
NOISE = 0.1


def space(backbone: Backbone, pool: str) -> Space:
    return {"blocks": (len(_blocks(backbone)),)}


def weight_masks(shapes: Space, arrays: Masks) -> Masks:
    if arrays.keys() != {"blocks"}:
        raise TicketMismatch("ticket: it has other arrays than blocks; use a ticket of this kind")
    return {}


@contextmanager
def applied(net: nn.Module, arrays: Masks) -> Iterator[Applied]:
    blocks = _blocks(net)
    check_fit(arrays, {"blocks": (len(blocks),)})
    runs: Counter[int] = Counter()
    skipped = [i for i in range(len(blocks)) if not arrays["blocks"][i]]
    for i in skipped:
        blocks[i].forward = _skip(blocks[i], _counting(blocks[i].forward, runs, i))
    try:
        yield Applied(violations=lambda *_: runs.total())
    finally:
        for i in skipped:
            del blocks[i].forward


def budget(net: nn.Module, arrays: Masks) -> Budget:
    blocks = _blocks(net)
    skipped = [block for block, keep in zip(blocks, arrays["blocks"], strict=True) if not keep]
    unused = sum(weight.numel() for block in skipped for weight in block.parameters())
    return Budget(
        kept=len(blocks) - len(skipped),
        total=len(blocks),
        parameters=sum(weight.numel() for weight in net.parameters()) - unused,
    )


@contextmanager
def searching(backbone: Any, spec: TrainSpec) -> Iterator[Callable[[Any], Any]]:
    blocks = _blocks(backbone)
    backbone.register_parameter("gates", nn.Parameter(torch.full((len(blocks),), 2.0)))
    backbone.register_buffer("gate_sums", torch.zeros(len(blocks)))
    penalty = float(dict(spec.search.options).get("penalty", PENALTY)) if spec.search else PENALTY

    def gate(number: int) -> Callable[..., Tensor]:
        def hook(block: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            value = backbone.gates[number].sigmoid()
            if block.training:
                value = value + NOISE * torch.randn(())
                backbone.gate_sums[number] += value.detach()
            return output * value

        return hook

    hooks = [block.register_forward_hook(gate(i)) for i, block in enumerate(blocks)]

    def with_penalty(objective: Any) -> Any:
        def penalized(forward: Any, batch: Any, loss_divisor: float) -> Iterator[Tensor]:
            yield from objective(forward, batch, loss_divisor)
            yield penalty * backbone.gates.sigmoid().mean() / loss_divisor

        return penalized

    try:
        yield with_penalty
    finally:
        for hook in hooks:
            hook.remove()


def found(spec: PruneSpec, space: Space, state: Mapping[str, Tensor]) -> tuple[Masks, Scores]:
    scores = {"blocks": state["gate_sums"].numpy()}
    every = Ticket({"blocks": np.ones(space["blocks"], np.bool_)}, spec.ticket_kind, scores)
    return every.top_k(kept_count(every.kept, spec.sparsity)).arrays, scores


def _blocks(net: nn.Module) -> list[Any]:
    pattern = re.compile(r"encoder\.layer\.\d+\.(attention\.)?output\.dense")
    return [module for name, module in net.named_modules() if pattern.fullmatch(name)]


def _counting(run: Callable[[Tensor], Tensor], runs: Counter[int], number: int) -> Any:
    def counted(hidden: Tensor) -> Tensor:
        runs[number] += 1
        return run(hidden)

    return counted


def _skip(block: Any, run: Callable[[Tensor], Tensor]) -> Any:
    def skipped(hidden: Tensor) -> Tensor:
        return hidden.new_zeros(*hidden.shape[:-1], block.out_features)

    return skipped
