"""Pruning by several processes that each hold a shard of every tensor, against one process."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.support.waits import HANG_S
from trainables.distributed.collectives import SINGLE_PROCESS, Peers, Shard, current_peers
from trainables.distributed.launch import ParentCall, run_processes
from trainables.pruning.magnitude import prune, prune_shards
from trainables.spec import ModelSpec, PruneSpec

Masks = dict[str, NDArray[np.bool_]]
MODEL = ModelSpec(architecture="uniter", size="tiny")
SPECS = [
    PruneSpec(model=MODEL, sparsity=sparsity, scope=scope, run=run)  # type: ignore[arg-type]
    for sparsity in (0.0, 0.3, 0.5, 0.77, 1.0)
    for scope in ("global", "layer")
    for run in ("", "r")
]


def weights(seed: int) -> dict[str, Tensor]:
    """Return tensors of uneven sizes. Odd seeds give thousands of ties, across all shard
    borders."""
    generator = np.random.default_rng(seed)
    shapes = {"a": (31, 7), "b": (1, 1), "c": (64, 33), "d": (2, 3)}
    values = {name: generator.standard_normal(shape) for name, shape in shapes.items()}
    if seed % 2:
        values = {name: np.round(value, 1) for name, value in values.items()}
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in values.items()}


def ticket(seed: int) -> Masks | None:
    generator = np.random.default_rng(100 + seed)
    masks = {
        name: generator.random(tuple(value.shape)) < 0.6 for name, value in weights(seed).items()
    }
    masks["b"][:] = True
    return masks if seed % 4 > 1 else None


def within(spec: PruneSpec, parent: Masks | None) -> PruneSpec:
    """Return `spec` with a sparsity that is possible within `parent`."""
    return spec if parent is None else replace(spec, sparsity=max(spec.sparsity, 0.77))


def shards_of_weights(seed: int, peers: Peers, *, uneven: bool) -> dict[str, Shard]:
    """Return shards of equal size, or of random sizes (some empty), like those of flat
    partitions."""
    shards = {}
    for name, value in weights(seed).items():
        size = value.numel()
        bounds = [
            0,
            *sorted(np.random.default_rng(seed).integers(0, size + 1, peers.world_size - 1)),
            size,
        ]
        first, end = bounds[peers.rank : peers.rank + 2] if uneven else peers.share(size)
        shards[name] = Shard(0, value.view(-1)).overlap(int(first), int(end))
    return shards


def shards_of_tickets(peers: Peers, *, seed: int, uneven: bool) -> list[dict[str, Shard]]:
    """Return this process's shards of the ticket of every spec."""
    shards, parent = shards_of_weights(seed, peers, uneven=uneven), ticket(seed)
    masks = None if parent is None else {n: each.select(parent[n]) for n, each in shards.items()}
    values = {name: each.values for name, each in shards.items()}
    tickets = [prune_shards(within(spec, parent), values, masks, peers) for spec in SPECS]
    return [
        {name: Shard(shards[name].start, torch.from_numpy(m)) for name, m in each.items()}
        for each in tickets
    ]


def full_tickets(seed: int) -> list[Masks]:
    parent = ticket(seed)
    return [prune(within(spec, parent), weights(seed), parent, None) for spec in SPECS]


def joined(parts: Sequence[dict[str, Shard]], seed: int) -> Masks:
    masks = {name: np.zeros(value.numel(), bool) for name, value in weights(seed).items()}
    for part in parts:
        for name, each in part.items():
            each.select(masks[name])[:] = each.values.numpy()
    return {name: masks[name].reshape(value.shape) for name, value in weights(seed).items()}


def same(a: Masks, b: Masks) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@dataclass(frozen=True, kw_only=True)
class ThreadPeers(Peers):
    """Collective operations between threads of this process instead of processes."""

    shared: list[Any]
    barrier: Barrier

    def all_gather(self, values: NDArray[Any]) -> NDArray[Any]:
        self.shared[self.rank] = values
        self.barrier.wait()
        gathered = np.stack(self.shared)
        self.barrier.wait()
        return gathered

    def all_reduce(self, values: NDArray[Any]) -> NDArray[Any]:
        total: NDArray[Any] = self.all_gather(values).sum(axis=0)
        return total


def by_threads(count: int, seed: int, *, uneven: bool) -> list[list[dict[str, Shard]]]:
    shared: list[Any] = [None] * count
    barrier = Barrier(count, timeout=HANG_S)
    results: list[Any] = [None] * count

    def run(rank: int) -> None:
        peers = ThreadPeers(rank=rank, world_size=count, shared=shared, barrier=barrier)
        results[rank] = shards_of_tickets(peers, seed=seed, uneven=uneven)

    threads = [Thread(target=partial(run, rank)) for rank in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return results


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_shards_of_a_ticket_join_to_the_ticket_of_one_process(count: int, uneven: bool) -> None:
    for seed in range(4):
        parts = by_threads(count, seed, uneven=uneven)
        for number, masks in enumerate(full_tickets(seed)):
            assert same(joined([part[number] for part in parts], seed), masks)


def test_the_weights_have_ties_at_the_threshold_in_every_shard() -> None:
    """Otherwise the test above would not cover ties."""
    values = torch.cat([value.abs().view(-1) for value in weights(1).values()])
    level = values.sort().values[len(values) // 2]
    for rank in range(4):
        shard = shards_of_weights(1, Peers(rank, 4), uneven=False)["c"]
        assert int((shard.values.abs() == level).sum()) > 5


def in_processes(argument: bytes, call: ParentCall) -> list[Masks]:
    """Entry point of each child of the test below."""
    peers, tickets = current_peers(), []
    for seed in pickle.loads(argument):
        shapes = {name: value.shape for name, value in weights(seed).items()}
        for part in shards_of_tickets(peers, seed=seed, uneven=True):
            as_bytes = {n: Shard(e.start, e.values.view(torch.uint8)) for n, e in part.items()}
            masks = peers.gather_shards(as_bytes, shapes)
            tickets.append({name: mask.numpy().view(np.bool_) for name, mask in masks.items()})
    return tickets


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_that_communicate_over_gloo_produce_the_same_tickets(count: int) -> None:
    seeds = [0, 1, 2, 3]
    tickets = run_processes(
        f"{__name__}:in_processes",
        pickle.dumps(seeds),
        lambda name, arguments, blob: None,
        count=count,
        device="cpu",
    )
    expected = [masks for seed in seeds for masks in full_tickets(seed)]
    assert len(tickets) == len(expected)
    assert all(same(a, b) for a, b in zip(tickets, expected, strict=True))


def test_collective_operations_of_a_single_process_return_their_argument() -> None:
    values = np.arange(3)
    assert SINGLE_PROCESS.all_reduce(values) is values
    assert SINGLE_PROCESS.all_gather(values).tolist() == [[0, 1, 2]]
    assert SINGLE_PROCESS.broadcast("text") == "text"
