"""A ticket kind and a pruning method in one file of a user's own: output channels of matrices.

A ticket keeps or removes whole outputs of the linear layers in the pool. Removed outputs are set to
zero in the forward pass, so the layer's row and bias get no gradient. The method keeps the channels
whose rows have the largest L2 norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.models.base import Backbone
from trainables.pruning import PruneMethod, kept_count
from trainables.spec import PruneSpec
from trainables.tickets import TicketKind
from trainables.tickets.base import Applied, Budget, Masks, Space, Ticket, check_fit, shapes_of

TICKET_KIND = TicketKind(
    module=__name__,
    units="channels",
    violation="channels that are off had outputs other than zero",
)
PRUNER = PruneMethod(module=__name__, needs="weights", kinds=("toy_kind",))


def space(backbone: Backbone, pool: str) -> Space:
    parameters = dict(backbone.named_parameters())
    return {name: (len(parameters[name]),) for name in backbone.prunable(pool)}


def weight_masks(shapes: Space, arrays: Masks) -> Masks:
    check_fit(arrays, {name: shape[:1] for name, shape in shapes.items()})
    return {}


@contextmanager
def applied(net: nn.Module, arrays: Masks) -> Iterator[Applied]:
    check_fit(arrays, {n: s[:1] for n, s in shapes_of(dict(net.named_parameters())).items()})
    hooks, leaks = [], {}
    for name, array in arrays.items():
        layer = net.get_submodule(name.removesuffix(".weight"))
        keep = torch.tensor(array, device=next(layer.parameters()).device)
        leaks[name] = torch.zeros_like(keep)
        hooks.append(layer.register_forward_hook(partial(_switch_off, keep)))
        hooks.append(layer.register_forward_hook(partial(_watch, ~keep, leaks[name])))
    try:
        yield Applied(violations=lambda *_: sum(int(each.sum()) for each in leaks.values()))
    finally:
        for hook in hooks:
            hook.remove()


def budget(net: nn.Module, arrays: Masks) -> Budget:
    parameters = sum(weight.numel() for weight in net.parameters())
    for name, array in arrays.items():
        layer = net.get_submodule(name.removesuffix(".weight"))
        per_channel = sum(weight[0].numel() for weight in layer.parameters(recurse=False))
        parameters -= int(np.count_nonzero(~array)) * per_channel
    return Budget(
        kept=Ticket(arrays).kept,
        total=sum(array.size for array in arrays.values()),
        parameters=parameters,
    )


def prune(
    spec: PruneSpec, weights: Mapping[str, Tensor], ticket: Masks | None, reference: Masks | None
) -> Masks:
    norms = {name: weight.norm(dim=1).numpy() for name, weight in weights.items()}
    if ticket is not None:
        norms = {name: np.where(ticket[name], norm, np.float32(-1)) for name, norm in norms.items()}
    parts = [norms] if spec.scope == "global" else [{name: norms[name]} for name in norms]
    arrays: dict[str, Any] = {}
    for part in parts:
        every = Ticket({name: norm >= -1 for name, norm in part.items()}, spec.ticket_kind, part)
        arrays |= every.top_k(kept_count(every.kept, spec.sparsity)).arrays
    return arrays


def _switch_off(keep: Tensor, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output * keep


def _watch(off: Tensor, leak: Tensor, layer: nn.Module, inputs: Any, output: Tensor) -> None:
    leak |= off & (output.detach() != 0).flatten(0, -2).any(0)
