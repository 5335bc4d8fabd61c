"""Wearing a weight mask, and proving that it was worn.

A network trains as f(x; m * theta, phi) (VLT section 3) when its pruned weights start at zero,
their gradients are masked, and the optimizer starts fresh: AdamW's update of a zero weight with
zero moments is zero, weight decay included. Masking the gradient itself, before accumulation,
keeps pruned weights out of the clipping norm too, and is exact at ZeRO 0 to 3 in fp32 and bf16.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.errors import TicketMismatch

Masks: TypeAlias = Mapping[str, NDArray[np.bool_]]
"""Tensor name -> which of its weights are kept, in the tensor's own shape."""
Weights: TypeAlias = Mapping[str, Tensor]


@contextmanager
def wearing(net: nn.Module, masks: Masks) -> Iterator[None]:
    """Zeroes the pruned weights of `net` and holds their gradients at zero; hooks end with it.

    Enter it before `deepspeed.initialize`, with `net` on its device: DeepSpeed's own hooks then
    come later in the same list, and reduce a masked gradient. The weights stay zero only under an
    optimizer without momentum for them, that is, a fresh one. Raises TicketMismatch.
    """
    parameters = dict(net.named_parameters())
    check_fit(masks, parameters)
    hooks = []
    for name, kept in masks.items():
        weight = parameters[name]
        # A bool mask keeps the gradient's dtype and takes 1 byte a weight; multiplying in place
        # needs no second gradient (a masked base-width step: 1.02 of a dense one, else 1.10).
        mask = torch.tensor(kept, device=weight.device)
        with torch.no_grad():
            weight.masked_fill_(~mask, 0.0)
        hook = partial(_mask_gradient, mask)
        hooks.append(weight.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _mask_gradient(mask: Tensor, weight: Tensor) -> None:
    assert weight.grad is not None
    weight.grad.mul_(mask)


def check_fit(masks: Masks, weights: Weights) -> None:
    """Raises TicketMismatch unless every mask has a weight of its name and shape."""
    for name, kept in masks.items():
        if name not in weights:
            raise TicketMismatch(
                f"ticket: the model has no weight {name!r}; use a ticket cut from this model"
            )
        if kept.shape != tuple(weights[name].shape) or kept.dtype != np.bool_:
            raise TicketMismatch(
                f"ticket: {name} is {kept.dtype} {kept.shape}, the model's weight has the shape "
                f"{tuple(weights[name].shape)}; use a ticket cut from this model and size"
            )


def pruned_nonzero(weights: Weights, masks: Masks) -> int:
    """How many pruned weights are not exactly zero (NaN is not; -0.0 is)."""
    return sum(
        int(torch.count_nonzero(weights[name][torch.from_numpy(~kept)]))
        for name, kept in masks.items()
    )


def kept_sha256(weights: Weights, masks: Masks) -> str:
    """64 hex digits over names, shapes and bytes of the kept weights; maskless tensors whole.

    Minus zero is hashed as zero: multiplying by a mask can turn one into the other.
    """
    whole = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().cpu().numpy()
        whole.update(f"{name}\0{values.dtype}\0{values.shape}\n".encode())
        kept = values[masks[name]] if name in masks else values
        whole.update(np.ascontiguousarray(kept + kept.dtype.type(0)).data)
    return whole.hexdigest()
