"""Tickets over scalar weights: masks on a network, and the check that pruned weights stay zero.

A network with mask m, backbone theta and head phi trains as f(x; m * theta, phi) (VLT section 3) if
its pruned weights start at zero, their gradients are masked, and the optimizer starts fresh: the
update of a zero weight with zero gradient and zero state is zero, weight decay included. Masking
the gradient itself, before accumulation, also keeps pruned weights out of the clipping norm, and is
exact at ZeRO 0 to 3 in fp32 and bf16.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from trainables.distributed.collectives import Shard
from trainables.models.base import Backbone
from trainables.tickets.base import Applied, Budget, Masks, Space, Ticket, check_fit, shapes_of

Weights: TypeAlias = Mapping[str, Tensor]
"""Tensor name -> tensor."""


def space(backbone: Backbone, pool: str) -> Space:
    """Return the shapes of the pool's weights."""
    parameters = dict(backbone.named_parameters())
    return {name: tuple(parameters[name].shape) for name in backbone.prunable(pool)}


def weight_masks(shapes: Space, arrays: Masks) -> Masks:
    """Return `arrays`, after a check that they fit."""
    check_fit(arrays, shapes)
    return arrays


@contextmanager
def applied(net: nn.Module, masks: Masks) -> Iterator[Applied]:
    """Zero the pruned weights of `net`, and mask their gradients until the context exits. Masks
    are by the names of the parameters of `net`, which may be any module.

    Enter it before `deepspeed.initialize`, with `net` on its device: DeepSpeed's own hooks then run
    later, and reduce the masked gradient. The weights stay zero only under a fresh optimizer, which
    has no momentum for them. Raises TicketMismatch if `masks` do not fit `net`.
    """
    parameters = dict(net.named_parameters())
    check_fit(masks, shapes_of(parameters))
    hooks = []
    for name, keep in masks.items():
        weight = parameters[name]
        # A bool mask keeps the gradient's dtype and takes 1 byte per weight. Multiplying in place
        # needs no second gradient: a masked base-width step takes 1.02 of a dense one, not 1.10.
        mask = torch.tensor(keep, device=weight.device)
        with torch.no_grad():
            weight.masked_fill_(~mask, 0.0)
        if not weight.requires_grad:  # a frozen weight has no gradient, and torch takes no hook
            continue
        hook = partial(_mask_gradient, mask)
        hooks.append(weight.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
    try:
        yield Applied(violations=partial(_violations, masks))
    finally:
        for hook in hooks:
            hook.remove()


def budget(net: nn.Module, arrays: Masks) -> Budget:
    """Return the size of the ticket: every pruned weight is a parameter less."""
    kept = Ticket(arrays).kept
    total = sum(mask.size for mask in arrays.values())
    parameters = sum(weight.numel() for weight in net.parameters())
    return Budget(kept=kept, total=total, parameters=parameters - (total - kept))


def _violations(
    masks: Masks, local_weights: Mapping[str, Shard], masters: Mapping[str, Shard]
) -> int:
    """Count the pruned weights that are not zero, in the module and in its masters."""
    return sum(
        pruned_nonzero(
            {name: shards[name].values for name in masks},
            {name: shards[name].select(mask) for name, mask in masks.items()},
        )
        for shards in (local_weights, masters)
    )


def _mask_gradient(mask: Tensor, weight: Tensor) -> None:
    assert weight.grad is not None
    if weight.grad.dtype == torch.bfloat16:
        # On CPU a product of bfloat16 and bool takes 82 ms for 85 million weights, and one of
        # bfloat16 alone 12. Such a mask takes a second byte per weight.
        mask.data = mask.to(torch.bfloat16)
    weight.grad.mul_(mask)


def pruned_nonzero(weights: Weights, masks: Masks) -> int:
    """Count the pruned weights that are not exactly zero. NaN counts, -0.0 does not."""
    return sum(
        int(torch.count_nonzero(weights[name][torch.from_numpy(~mask)]))
        for name, mask in masks.items()
    )


def kept_sha256(weights: Weights, masks: Masks) -> str:
    """Return the SHA-256 (64 hex digits) of the names, shapes and bytes of the kept weights.

    All weights of a tensor without a mask are hashed. Minus zero is hashed as zero, because
    multiplying by a mask can turn one into the other.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().cpu().numpy()
        digest.update(f"{name}\0{values.dtype}\0{values.shape}\n".encode())
        kept = values[masks[name]] if name in masks else values
        digest.update(np.ascontiguousarray(kept + kept.dtype.type(0)).data)
    return digest.hexdigest()
