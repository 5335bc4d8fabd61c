"""This process's shards of the weights and of the optimizer's state, at each ZeRO stage.

*Masters* are the float32 weights that the optimizer updates; the module's own weights, which
compute in the forward pass, are rounded from them. All shards are views: writing to them writes to
the engine. At stage 0 every process holds everything. At stages 1 and 2 it holds a shard of the
float32 masters and of the optimizer's state, and all of the module's own weights; at stage 3 it
holds a shard of those too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainables.distributed.collectives import Peers, Shard


def master_shard(weight: Tensor, zero: int, size: int, peers: Peers) -> Shard:
    """Return the shard of a weight's float32 master; `size` is the weight's number of elements. At
    stage 0, `weight` is the master itself."""
    if zero == 0:
        return Shard(0, weight.detach().view(-1))
    if zero == 3:
        from deepspeed.utils import safe_get_local_fp32_param

        return _without_padding(safe_get_local_fp32_param(weight), size, peers)
    return _fragment(weight, None)


def state_shard(
    weight: Tensor,
    key: str,
    optimizer: torch.optim.Optimizer,
    zero: int,
    size: int,
    peers: Peers,
) -> Shard:
    """Return the shard of the optimizer's state `key` of a weight, such as `exp_avg`. At stage 0,
    `weight` is the float32 master."""
    if zero == 0:
        return Shard(0, optimizer.state[weight][key].view(-1))
    if zero == 3:
        from deepspeed.utils import safe_get_local_optimizer_state

        return _without_padding(safe_get_local_optimizer_state(weight, key), size, peers)
    return _fragment(weight, key)


def local_weight(weight: Tensor, zero: int, size: int, peers: Peers) -> Shard:
    """Return the shard of the module's own weight, in the precision in which it computes."""
    if zero == 3:
        return _without_padding(weight.ds_tensor, size, peers)  # type: ignore[attr-defined]
    return Shard(0, weight.detach().view(-1))


def optimizer_partitions(optimizer: torch.optim.Optimizer, zero_optimizer: Any) -> Sequence[Tensor]:
    """Return the tensors that `optimizer` updates: parameters at stage 0, flat partitions above.

    `zero_optimizer` is DeepSpeed's wrapper of `optimizer`.
    """
    if hasattr(zero_optimizer, "fp32_partitioned_groups_flat"):
        flat: Sequence[Tensor] = zero_optimizer.fp32_partitioned_groups_flat
        return flat
    return [each for group in optimizer.param_groups for each in group["params"]]


def zero_gradients(zero_optimizer: Any) -> None:
    """Zero the gradients at stage 3, where DeepSpeed keeps them in one buffer. It overwrites the
    gradients that a step computes and clears none: a weight that a step does not use would get the
    gradient of its last use again."""
    zero_optimizer.grad_partitions_flat_buffer.zero_()


def write_shard(shard: Shard, tensor: Tensor) -> None:
    """Copy the elements that `shard` views from the full `tensor`."""
    end = shard.start + shard.values.numel()
    shard.values.copy_(tensor.reshape(-1)[shard.start : end])


def cpu_copies(shards: Mapping[str, Shard]) -> dict[str, Shard]:
    """Return copies on the CPU, independent of the engine."""
    return {
        name: Shard(each.start, each.values.detach().to("cpu", copy=True))
        for name, each in shards.items()
    }


def _fragment(weight: Tensor, key: str | None) -> Shard:
    """Return the shard at stages 1 and 2, where a flat partition can cover all, a part or nothing
    of a parameter."""
    mapping = weight._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return Shard(0, torch.empty(0))
    values = mapping.get_hp_fragment(key)
    return Shard(mapping.lp_fragment_address.start, values.view(-1))


def _without_padding(partition: Tensor, size: int, peers: Peers) -> Shard:
    """Return the shard at stage 3, which splits every parameter into equal partitions and pads the
    last ones."""
    values = partition.detach().view(-1)
    start = min(values.numel() * peers.rank, size)
    return Shard(start, values[: max(0, size - start)])
