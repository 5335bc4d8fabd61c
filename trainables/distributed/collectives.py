"""What the processes that train one trial together tell each other.

A trial has one process as a rule, and everything here then gives back what it was given. Several
divide each tensor: a `Stretch` is what one of them holds, and all of them together hold every
element once, in the order of their ranks. Small things travel as tensors on the CPU, by gloo,
whatever device the network is on.
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


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive elements of a tensor in C order: `values` (n,) from element `start`."""

    start: int
    values: Tensor

    def of(self, whole: NDArray[Number]) -> NDArray[Number]:
        """The same elements of an array of the whole tensor's shape."""
        return whole.reshape(-1)[self.start : self.start + self.values.numel()]

    def part(self, first: int, end: int) -> Stretch:
        """What of it lies in elements `first` to `end` of the tensor."""
        low = min(max(first - self.start, 0), self.values.numel())
        high = min(max(end - self.start, low), self.values.numel())
        return Stretch(self.start + low, self.values[low:high])


@dataclass(frozen=True, slots=True)
class Peers:
    """One process among those of its trial. All must make the same calls in the same order."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks for all."""
        return self.rank == 0

    def total(self, values: NDArray[Number]) -> NDArray[Number]:
        """The sum of everyone's."""
        if self.count == 1:
            return values
        summed = torch.from_numpy(values.copy())
        dist.all_reduce(summed)
        return summed.numpy()

    def listed(self, values: NDArray[Number]) -> NDArray[Number]:
        """Everyone's, by rank, along a new first axis."""
        own = torch.from_numpy(np.ascontiguousarray(values))
        if self.count == 1:
            return values[None]
        every = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(every, own)
        return torch.stack(every).numpy()

    def agreed(self, value: T) -> T:
        """What the first process gave, a small JSON value; floats come through exactly."""
        if self.count == 1:
            return value
        text = np.frombuffer(json.dumps(value).encode(), np.uint8).copy()
        size = torch.tensor([len(text)])
        dist.broadcast(size, 0)
        sent = torch.from_numpy(text) if self.first else torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(sent, 0)
        agreed: T = json.loads(sent.numpy().tobytes())
        return agreed

    def sent_to_first(self, value: Tensor | None) -> list[Tensor | None]:
        """At the first process everyone's tensor, (up to 7 axes, on CPU, float32) or None, by rank;
        elsewhere nothing."""
        if self.count == 1:
            return [value]
        header = np.full(8, -1)
        if value is not None:
            header[: value.ndim + 1] = value.ndim, *value.shape
        headers = self.listed(header)
        if not self.first:
            if value is not None:
                dist.send(value.contiguous(), 0)
            return []
        received: list[Tensor | None] = [value]
        for rank in range(1, self.count):
            axes = int(headers[rank, 0])
            found = None
            if axes >= 0:
                found = torch.empty(*headers[rank, 1 : axes + 1].tolist())
                dist.recv(found, rank)
            received.append(found)
        return received

    def even(self, size: int) -> tuple[int, int]:
        """First and end of this process's share of `size` things."""
        return size * self.rank // self.count, size * (self.rank + 1) // self.count

    def assembled(
        self, stretches: Mapping[str, Stretch], shapes: Mapping[str, Sequence[int]]
    ) -> dict[str, Tensor]:
        """Whole tensors from everyone's stretches, at the first process; elsewhere nothing.

        All processes name the same tensors. What a process other than the first holds has one
        dtype; each sends it in one piece, and the first takes in one process after another. A
        stretch that is whole is not copied.
        """
        if self.count == 1:
            return {name: each.values.view(*shapes[name]) for name, each in stretches.items()}
        layout = [(each.start, each.values.numel()) for each in stretches.values()]
        layouts = self.listed(np.array(layout, np.int64).reshape(-1, 2))
        if not self.first:
            held = [each.values for each in stretches.values() if each.values.numel()]
            if held:
                dist.send(torch.cat(held).cpu(), 0)
            return {}
        wanted = [math.prod(shapes[name]) for name in stretches]
        if layouts[:, :, 1].sum(axis=0).tolist() != wanted:
            # What nobody holds would be whatever lies in memory.
            raise InvariantError("the processes do not hold each weight once between them")
        whole = {
            name: torch.empty(*shapes[name], dtype=each.values.dtype)
            for name, each in stretches.items()
        }
        for each, target in zip(stretches.values(), whole.values(), strict=True):
            _write(target, each)
        for rank in range(1, self.count):
            self._take_in(rank, layouts[rank], list(whole.values()))
        return whole

    def _take_in(self, rank: int, layout: NDArray[np.int64], whole: list[Tensor]) -> None:
        sizes = layout[:, 1]
        kinds = {each.dtype for each, size in zip(whole, sizes, strict=True) if size}
        if not kinds:
            return
        (dtype,) = kinds
        sent = torch.empty(int(sizes.sum()), dtype=dtype)
        dist.recv(sent, rank)
        pieces = torch.split(sent, sizes.tolist())
        for target, start, piece in zip(whole, layout[:, 0].tolist(), pieces, strict=True):
            _write(target, Stretch(start, piece))


ALONE = Peers()


def here() -> Peers:
    """This process in the group that it has joined, or alone."""
    if dist.is_initialized():
        return Peers(dist.get_rank(), dist.get_world_size())
    return ALONE


def _write(target: Tensor, stretch: Stretch) -> None:
    end = stretch.start + stretch.values.numel()
    target.view(-1)[stretch.start : end].copy_(stretch.values)
