"""A cut by several that each hold a stretch of every tensor, against the cut of the whole."""

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

from trainables.distributed.collectives import ALONE, Peers, Stretch, here
from trainables.distributed.launch import Call, together
from trainables.pruning.magnitude import cut, cut_stretches
from trainables.spec import CutSpec, ModelSpec

Masks = dict[str, NDArray[np.bool_]]
MODEL = ModelSpec(architecture="uniter", size="tiny")
SPECS = [
    CutSpec(model=MODEL, sparsity=sparsity, scope=scope, run=run)  # type: ignore[arg-type]
    for sparsity in (0.0, 0.3, 0.5, 0.77, 1.0)
    for scope in ("global", "layer")
    for run in ("", "r")
]


def weights(seed: int) -> dict[str, Tensor]:
    """Tensors of uneven sizes. Odd seeds: thousands of ties, across all borders."""
    draw = np.random.default_rng(seed)
    shapes = {"a": (31, 7), "b": (1, 1), "c": (64, 33), "d": (2, 3)}
    found = {name: draw.standard_normal(shape) for name, shape in shapes.items()}
    if seed % 2:
        found = {name: np.round(value, 1) for name, value in found.items()}
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in found.items()}


def ticket(seed: int) -> Masks | None:
    draw = np.random.default_rng(100 + seed)
    worn = {name: draw.random(tuple(value.shape)) < 0.6 for name, value in weights(seed).items()}
    worn["b"][:] = True
    return worn if seed % 4 > 1 else None


def asked(spec: CutSpec, worn: Masks | None) -> CutSpec:
    return spec if worn is None else replace(spec, sparsity=max(spec.sparsity, 0.77))


def stretches(seed: int, peers: Peers, *, uneven: bool) -> dict[str, Stretch]:
    """Even shares, or stretches that leave some with nothing, as flat partitions do."""
    held = {}
    for name, value in weights(seed).items():
        size = value.numel()
        cuts = [
            0,
            *sorted(np.random.default_rng(seed).integers(0, size + 1, peers.count - 1)),
            size,
        ]
        first, end = cuts[peers.rank : peers.rank + 2] if uneven else peers.even(size)
        held[name] = Stretch(0, value.view(-1)).part(int(first), int(end))
    return held


def shares(peers: Peers, *, seed: int, uneven: bool) -> list[dict[str, Stretch]]:
    """This one's stretches of the ticket of every spec."""
    held, worn = stretches(seed, peers, uneven=uneven), ticket(seed)
    own = None if worn is None else {name: each.of(worn[name]) for name, each in held.items()}
    values = {name: each.values for name, each in held.items()}
    cuts = [cut_stretches(asked(spec, worn), values, own, peers) for spec in SPECS]
    return [
        {name: Stretch(held[name].start, torch.from_numpy(m)) for name, m in masks.items()}
        for masks in cuts
    ]


def whole(seed: int) -> list[Masks]:
    worn = ticket(seed)
    return [cut(asked(spec, worn), weights(seed), worn, None) for spec in SPECS]


def joined(parts: Sequence[dict[str, Stretch]], seed: int) -> Masks:
    found = {name: np.zeros(value.numel(), bool) for name, value in weights(seed).items()}
    for part in parts:
        for name, each in part.items():
            each.of(found[name])[:] = each.values.numpy()
    return {name: found[name].reshape(value.shape) for name, value in weights(seed).items()}


def same(a: Masks, b: Masks) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@dataclass(frozen=True, kw_only=True)
class Threads(Peers):
    """Threads of this process in place of processes: each leaves what it gives on a table."""

    table: list[Any]
    meet: Barrier

    def listed(self, values: NDArray[Any]) -> NDArray[Any]:
        self.table[self.rank] = values
        self.meet.wait()
        found = np.stack(self.table)
        self.meet.wait()
        return found

    def total(self, values: NDArray[Any]) -> NDArray[Any]:
        summed: NDArray[Any] = self.listed(values).sum(axis=0)
        return summed


def by_threads(count: int, seed: int, *, uneven: bool) -> list[list[dict[str, Stretch]]]:
    table: list[Any] = [None] * count
    meet = Barrier(count, timeout=30)
    found: list[Any] = [None] * count

    def run(rank: int) -> None:
        peers = Threads(rank=rank, count=count, table=table, meet=meet)
        found[rank] = shares(peers, seed=seed, uneven=uneven)

    threads = [Thread(target=partial(run, rank)) for rank in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return found


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_stretches_add_up_to_the_very_ticket_of_the_whole(count: int, uneven: bool) -> None:
    for seed in range(4):
        parts = by_threads(count, seed, uneven=uneven)
        for number, masks in enumerate(whole(seed)):
            assert same(joined([part[number] for part in parts], seed), masks)


def test_the_weights_have_ties_at_the_threshold_in_every_stretch() -> None:
    """Or the test above would say nothing about them."""
    values = torch.cat([value.abs().view(-1) for value in weights(1).values()])
    level = values.sort().values[len(values) // 2]
    for rank in range(4):
        held = stretches(1, Peers(rank, 4), uneven=False)["c"]
        assert int((held.values.abs() == level).sum()) > 5


def in_processes(argument: bytes, call: Call) -> list[Masks]:
    """Run by each child of the test below."""
    peers, tickets = here(), []
    for seed in pickle.loads(argument):
        shapes = {name: value.shape for name, value in weights(seed).items()}
        for part in shares(peers, seed=seed, uneven=True):
            bytes_of = {n: Stretch(e.start, e.values.view(torch.uint8)) for n, e in part.items()}
            masks = peers.assembled(bytes_of, shapes)
            tickets.append({name: mask.numpy().view(np.bool_) for name, mask in masks.items()})
    return tickets


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_that_talk_by_gloo_make_the_same_tickets(count: int) -> None:
    seeds = [0, 1, 2, 3]
    tickets = together(
        f"{__name__}:in_processes",
        pickle.dumps(seeds),
        lambda name, arguments, blob: None,
        count=count,
        device="cpu",
    )
    expected = [masks for seed in seeds for masks in whole(seed)]
    assert len(tickets) == len(expected)
    assert all(same(a, b) for a, b in zip(tickets, expected, strict=True))


def test_alone_everything_given_comes_back() -> None:
    values = np.arange(3)
    assert ALONE.total(values) is values
    assert ALONE.listed(values).tolist() == [[0, 1, 2]]
    assert ALONE.agreed("word") == "word"
