"""What this process holds of the weights and of Adam's moments, at each ZeRO stage.

All are views: what is written into them is written into the engine. At stage 0 every process holds
everything; at 1 and 2 a stretch of the float32 masters and the moments, and all of the module's own
weights; at 3 a stretch of those too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainables.distributed.collectives import Peers, Stretch


def master(weight: nn.Parameter, zero: int, size: int, peers: Peers) -> Stretch:
    """Of the float32 masters; `size` is the number of the weight's elements."""
    if zero == 0:
        return Stretch(0, weight.detach().view(-1))
    if zero == 3:
        from deepspeed.utils import safe_get_local_fp32_param

        return _unpadded(safe_get_local_fp32_param(weight), size, peers)
    return _fragment(weight, None)


def moment(
    weight: nn.Parameter,
    kind: str,
    optimizer: torch.optim.Optimizer,
    zero: int,
    size: int,
    peers: Peers,
) -> Stretch:
    """Of Adam's moment `kind`."""
    if zero == 0:
        return Stretch(0, optimizer.state[weight][kind].view(-1))
    if zero == 3:
        from deepspeed.utils import safe_get_local_optimizer_state

        return _unpadded(safe_get_local_optimizer_state(weight, kind), size, peers)
    return _fragment(weight, kind)


def own(weight: nn.Parameter, zero: int, size: int, peers: Peers) -> Stretch:
    """Of the module's own weights, in the precision in which it computes."""
    if zero == 3:
        return _unpadded(weight.ds_tensor, size, peers)  # type: ignore[attr-defined]
    return Stretch(0, weight.detach().view(-1))


def partitions(optimizer: torch.optim.Optimizer, inner: Any) -> Sequence[Tensor]:
    """The tensors that Adam updates: parameters at stage 0, flat partitions above. `inner` is
    what DeepSpeed made of `optimizer`."""
    if hasattr(inner, "fp32_partitioned_groups_flat"):
        flat: Sequence[Tensor] = inner.fp32_partitioned_groups_flat
        return flat
    return [each for group in optimizer.param_groups for each in group["params"]]


def write(stretch: Stretch, whole: Tensor) -> None:
    """Takes from `whole` the elements that `stretch` views."""
    end = stretch.start + stretch.values.numel()
    stretch.values.copy_(whole.reshape(-1)[stretch.start : end])


def copied(stretches: Mapping[str, Stretch]) -> dict[str, Stretch]:
    """The same on the CPU, and independent of the engine."""
    return {
        name: Stretch(each.start, each.values.detach().to("cpu", copy=True))
        for name, each in stretches.items()
    }


def _fragment(weight: nn.Parameter, kind: str | None) -> Stretch:
    """At stages 1 and 2: a flat partition covers whole and cut parameters, and others not at
    all."""
    mapping = weight._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return Stretch(0, torch.empty(0))
    values = mapping.get_hp_fragment(kind)
    return Stretch(mapping.lp_fragment_address.start, values.view(-1))


def _unpadded(partition: Tensor, size: int, peers: Peers) -> Stretch:
    """At stage 3: every parameter is cut into equal partitions, the last ones padded."""
    values = partition.detach().view(-1)
    start = min(values.numel() * peers.rank, size)
    return Stretch(start, values[: max(0, size - start)])
