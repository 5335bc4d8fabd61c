"""Collective operations between the processes that train one trial together.

Most trials have one process; every operation then returns its argument. Several processes divide
each tensor: a `Shard` is the part of one process, and together the shards hold every element once,
in the order of the ranks. Small values are sent as CPU tensors over gloo, whatever device the
network is on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from trainables.errors import InvariantError

T = TypeVar("T")
Number = TypeVar("Number", bound=np.generic)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
"""The dtypes that `Peers.gather` can send. The order must be the same in all processes."""
MAX_AXES = 8
"""The largest number of axes of a tensor that `Peers.gather` can send."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive elements of a tensor in C order: `values` (n,) from element `start`."""

    start: int
    values: Tensor

    def select(self, array: NDArray[Number]) -> NDArray[Number]:
        """Return the same elements of an array of the full tensor's shape."""
        return array.reshape(-1)[self.start : self.start + self.values.numel()]

    def overlap(self, first: int, end: int) -> Shard:
        """Return the part of the shard within elements `first` to `end` of the tensor."""
        low = min(max(first - self.start, 0), self.values.numel())
        high = min(max(end - self.start, low), self.values.numel())
        return Shard(self.start + low, self.values[low:high])


@dataclass(frozen=True, slots=True)
class Peers:
    """The process group of a trial, as one of its processes sees it. All processes of the group
    must make the same calls in the same order."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which reports for the group."""
        return self.rank == 0

    def all_reduce(self, values: NDArray[Number]) -> NDArray[Number]:
        """Return the sum over all processes."""
        if self.world_size == 1:
            return values
        summed = torch.from_numpy(values.copy())
        dist.all_reduce(summed)
        return summed.numpy()

    def all_gather(self, values: NDArray[Number]) -> NDArray[Number]:
        """Return the values of all processes, by rank, along a new first axis."""
        local = torch.from_numpy(np.ascontiguousarray(values))
        if self.world_size == 1:
            return values[None]
        gathered = [torch.empty_like(local) for _ in range(self.world_size)]
        dist.all_gather(gathered, local)
        return torch.stack(gathered).numpy()

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0, a small JSON value. Floats are transferred exactly."""
        if self.world_size == 1:
            return value
        text = np.frombuffer(json.dumps(value).encode(), np.uint8).copy()
        size = torch.tensor([len(text)])
        dist.broadcast(size, 0)
        data = (
            torch.from_numpy(text) if self.is_first else torch.empty(int(size), dtype=torch.uint8)
        )
        dist.broadcast(data, 0)
        received: T = json.loads(data.numpy().tobytes())
        return received

    def gather(self, value: Tensor | None) -> list[Tensor | None]:
        """Return the tensors of all processes, by rank, at rank 0, and an empty list elsewhere.

        Each is on CPU, of a dtype of `DTYPES` and with up to `MAX_AXES` axes, or None.
        """
        if self.world_size == 1:
            return [value]
        header = np.full(MAX_AXES + 2, -1)
        if value is not None:
            header[: value.ndim + 2] = value.ndim, DTYPES.index(value.dtype), *value.shape
        headers = self.all_gather(header)
        if not self.is_first:
            if value is not None:
                dist.send(value.contiguous(), 0)
            return []
        received: list[Tensor | None] = [value]
        for rank in range(1, self.world_size):
            axes = int(headers[rank, 0])
            tensor = None
            if axes >= 0:
                shape = headers[rank, 2 : axes + 2].tolist()
                tensor = torch.empty(shape, dtype=DTYPES[headers[rank, 1]])
                dist.recv(tensor, rank)
            received.append(tensor)
        return received

    def share(self, size: int) -> tuple[int, int]:
        """Return the start and the end of this process's share of `size` items."""
        return size * self.rank // self.world_size, size * (self.rank + 1) // self.world_size

    def gather_shards(
        self, shards: Mapping[str, Shard], shapes: Mapping[str, Sequence[int]]
    ) -> dict[str, Tensor]:
        """Return full tensors, assembled from the shards of all processes, at rank 0; an empty
        mapping elsewhere.

        All processes must name the same tensors, of the same dtypes. A rank other than 0 sends its
        shards of each dtype in one message, and rank 0 receives one rank after another. A process
        alone gets its shards back without a copy.
        """
        if self.world_size == 1:
            return {name: each.values.view(tuple(shapes[name])) for name, each in shards.items()}
        layout = [(each.start, each.values.numel()) for each in shards.values()]
        layouts = self.all_gather(np.array(layout, np.int64).reshape(-1, 2))
        if not self.is_first:
            for same in _by_dtype([each.values for each in shards.values() if each.values.numel()]):
                dist.send(torch.cat(same).cpu(), 0)
            return {}
        sizes = [math.prod(shapes[name]) for name in shards]
        if layouts[:, :, 1].sum(axis=0).tolist() != sizes:
            # Elements that no process holds would keep uninitialized memory.
            raise InvariantError(
                "the processes' shards do not cover each weight exactly once; this is a defect, "
                "please report it"
            )
        tensors = {
            name: torch.empty(tuple(shapes[name]), dtype=each.values.dtype)
            for name, each in shards.items()
        }
        for shard, tensor in zip(shards.values(), tensors.values(), strict=True):
            _write(tensor, shard)
        for rank in range(1, self.world_size):
            self._receive_shards(rank, layouts[rank], list(tensors.values()))
        return tensors

    def all_gather_shards(
        self, shards: Mapping[str, Shard], shapes: Mapping[str, torch.Size]
    ) -> dict[str, Tensor]:
        """Return full tensors, assembled from the shards of all processes, in each process.

        All processes must name the same tensors, which must have one dtype. A process alone gets
        its shards back without a copy.
        """
        if self.world_size > 1:
            sizes = [shapes[name].numel() for name in shards]
            # DeepSpeed's empty shards are on the CPU, whatever the device.
            held = max((each.values for each in shards.values()), key=Tensor.numel)
            flat = held.new_zeros(sum(sizes))
            parts = torch.split(flat, sizes)
            for shard, part in zip(shards.values(), parts, strict=True):
                part[shard.start : shard.start + shard.values.numel()] = shard.values.detach()
            dist.all_reduce(flat)  # every element is zero in all processes but one
            shards = {name: Shard(0, part) for name, part in zip(shards, parts, strict=True)}
        return {name: each.values.detach().view(shapes[name]) for name, each in shards.items()}

    def _receive_shards(self, rank: int, layout: NDArray[np.int64], tensors: list[Tensor]) -> None:
        sent = [
            (tensor, start, size)
            for tensor, (start, size) in zip(tensors, layout.tolist(), strict=True)
            if size
        ]
        for dtype in dict.fromkeys(tensor.dtype for tensor, _, _ in sent):
            same = [each for each in sent if each[0].dtype == dtype]
            sizes = [size for _, _, size in same]
            message = torch.empty(sum(sizes), dtype=dtype)
            dist.recv(message, rank)
            for (tensor, start, _), part in zip(same, torch.split(message, sizes), strict=True):
                _write(tensor, Shard(start, part))


def _by_dtype(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Group tensors by dtype, in the order in which the dtypes first occur."""
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return list(groups.values())


SINGLE_PROCESS = Peers()


def current_peers() -> Peers:
    """Return the group that this process has joined, or `SINGLE_PROCESS`."""
    if dist.is_initialized():
        return Peers(dist.get_rank(), dist.get_world_size())
    return SINGLE_PROCESS


def _write(tensor: Tensor, shard: Shard) -> None:
    end = shard.start + shard.values.numel()
    tensor.view(-1)[shard.start : end].copy_(shard.values)
