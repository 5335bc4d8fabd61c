"""Buffers as state: the running statistics of a BatchNorm are saved, rewound, hashed and averaged
over processes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support import toy_runs
from tests.support.runs import RecordingSink
from trainables.distributed.collectives import Peers, Shard, current_peers
from trainables.distributed.launch import ParentCall, run_processes
from trainables.distributed.reduce import average_buffers
from trainables.errors import InvariantError, Stopped
from trainables.run import RunInputs, RunOutcome, prune, run
from trainables.spec import Start, TrainSpec
from trainables.tickets.weights import kept_sha256
from trainables.training.checkpoint import decode_checkpoint
from trainables.training.checks import check_ranks_agree
from trainables.training.sink import Action

MEAN, VARIANCE, COUNT = (
    f"backbone.norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with toy_runs.installed():
        yield toy_runs.write_data(tmp_path_factory.mktemp("textures"))


class StoppingSink(RecordingSink):
    def next_action(self, step: int) -> Action:
        return "stop" if step == 3 else "continue"


def trained(spec: TrainSpec, given: RunInputs) -> tuple[RunOutcome, RecordingSink]:
    sink = RecordingSink()
    prunes = {"next": toy_runs.prune_spec(sparsity=0.8, run="r")}
    outcome = run(spec, given, sink, prunes=prunes, rewinds={0, 2, 6})
    return outcome, sink


def stopped(spec: TrainSpec, given: RunInputs) -> bytes:
    """Return the checkpoint after step 3."""
    sink = StoppingSink()
    with pytest.raises(Stopped):
        run(spec, given, sink, rewinds={0, 2})
    return sink.checkpoints[-1]


def state(sink: RecordingSink, step: int) -> dict[str, Tensor]:
    return decode_checkpoint(sink.rewinds[step])[0]


def test_a_ticket_trains_resumes_and_rewinds_with_its_statistics(data: Path) -> None:
    ticket = prune(toy_runs.prune_spec(method="random"), toy_runs.inputs())
    masked = toy_runs.spec(data, ticket="t")
    given = toy_runs.inputs(data, ticket=ticket)
    outcome, sink = trained(masked, given)
    assert outcome.checks["pruned_nonzero"] == 0
    assert outcome.scores["score"] != outcome.scores["prior"]
    assert all(
        np.all(ticket.arrays[name] >= mask) for name, mask in sink.tickets["next"].arrays.items()
    )
    first, early, end = (state(sink, step) for step in (0, 2, 6))
    assert torch.equal(first[MEAN], torch.zeros(8))
    assert torch.equal(first[VARIANCE], torch.ones(8))
    counts = [int(each[COUNT]) for each in (first, early, end)]
    assert counts == [0, 4, 12]  # two micro-batches per step
    assert early[COUNT].dtype == torch.int64

    again = replace(given, checkpoint=stopped(masked, given))
    resumed, resumed_sink = trained(masked, again)
    assert resumed == outcome
    assert resumed_sink.rewinds[6] == sink.rewinds[6]
    assert resumed_sink.tickets.keys() == sink.tickets.keys()

    # theta_2: its statistics belong to the start weights.
    rewound = replace(masked, start=Start(kind="rewind", trial="t", seed=0))
    from_rewind, rewound_sink = trained(rewound, replace(given, rewind=early))
    assert rewound_sink.rewinds[0] == sink.rewinds[2].replace(b'\\"step\\": 2', b'\\"step\\": 0')
    assert from_rewind.checks["theta_sha256"] == kept_sha256(early, {})
    other_mean = {**early, MEAN: early[MEAN] + 1}
    changed, _ = trained(rewound, replace(given, rewind=other_mean))
    assert changed.checks["theta_sha256"] != from_rewind.checks["theta_sha256"]
    assert changed.checks["final_sha256"] != from_rewind.checks["final_sha256"]


def test_a_dense_run_learns(data: Path) -> None:
    recipe = replace(toy_runs.RECIPE, steps=30, eval_every=0)
    outcome, _ = trained(toy_runs.spec(data, recipe=recipe), toy_runs.inputs(data))
    assert outcome.scores["score"] > 80


def test_integers_are_hashed_exactly() -> None:
    def sha256(count: int) -> str:
        return kept_sha256({"count": torch.tensor(count), "on": torch.tensor([True])}, {})

    assert sha256(2**53) != sha256(2**53 + 1)


def test_a_buffer_that_three_processes_share_keeps_its_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def all_reduce(values: torch.Tensor) -> None:
        values.copy_(values + values + values)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    table = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    averaged = [table.clone(), table.double() / 3]
    average_buffers(averaged, Peers(rank=0, world_size=3))
    assert torch.equal(averaged[0], table)
    assert torch.allclose(averaged[1], table.double() / 3, rtol=1e-15, atol=0)


def member(argument: bytes, call: ParentCall) -> Any:
    """Entry point of each of two processes: what they exchange, and runs that they share."""
    peers = current_peers()
    whole = {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(2**53 + 1), "b": torch.arange(4)}
    halves = {"a": Shard(3 * peers.rank, torch.arange(6.0)[3 * peers.rank :][:3])}
    owned = {"n": 0, "b": 1}
    halves |= {
        name: Shard(0, whole[name].view(-1)[: None if peers.rank == rank else 0])
        for name, rank in owned.items()
    }
    gathered = peers.gather_shards(halves, {name: each.shape for name, each in whole.items()})
    sent = torch.full((1, 1, 2, 1, 1, 1, 1, 3), 2**53 + peers.rank)  # of 8 axes, int64
    received = peers.gather(sent)
    if peers.is_first:
        assert all(torch.equal(gathered[name], each) for name, each in whole.items())
        assert [int(each[0, 0, 0, 0, 0, 0, 0, 2]) for each in received if each is not None] == [
            2**53,
            2**53 + 1,
        ]

    buffers = [torch.full((2, 2), float(peers.rank)), torch.tensor(7 + peers.rank)]
    average_buffers(buffers, peers)
    assert torch.equal(buffers[0], torch.full((2, 2), 0.5))
    assert int(buffers[1]) == 7 + peers.rank
    try:
        check_ranks_agree({"count": Shard(0, buffers[1].view(1))}, peers)
        assert peers.is_first
    except InvariantError:
        assert not peers.is_first

    folder, rewinds = pickle.loads(argument), {}
    with toy_runs.installed():
        for zero in (0, 2, 3):
            recipe = replace(toy_runs.RECIPE, zero=zero)
            spec, given = toy_runs.spec(folder, recipe=recipe), toy_runs.inputs(folder)
            outcome, sink = trained(spec, given)
            rewinds[zero] = sink.rewinds
            if zero < 3:  # after a run at 3 the process is not fresh
                checkpoint = bytes(peers.broadcast(list(stopped(spec, given))))
                resumed, resumed_sink = trained(spec, replace(given, checkpoint=checkpoint))
                assert resumed == outcome
                assert not peers.is_first or resumed_sink.rewinds[6] == sink.rewinds[6]
    return rewinds


def test_two_processes_agree_and_resume_to_the_same_bits(data: Path) -> None:
    """Each run ends with the check that both processes have the same weights and buffers."""
    rewinds = run_processes(
        f"{__name__}:member",
        pickle.dumps(data),
        lambda name, arguments, blob: None,
        count=2,
        device="cpu",
    )
    ends = {zero: decode_checkpoint(points[6])[0] for zero, points in rewinds.items()}
    for end in ends.values():
        assert int(end[COUNT]) == 6  # a micro-batch per step in each process
        assert not torch.equal(end[MEAN], torch.zeros(8))
        assert torch.allclose(end[MEAN], ends[0][MEAN], atol=1e-4)
