"""Which process evaluates which batch if several processes share an evaluation."""

from __future__ import annotations

import pytest
import torch

from trainables.training.evaluate import forward_passes

WORDS, REGIONS = {"input_ids": torch.zeros(1)}, {"region_features": torch.zeros(1)}
ROWS = [
    [WORDS, dict(WORDS), dict(WORDS)],
    [WORDS, REGIONS, dict(WORDS)],
    [REGIONS, WORDS],
    [WORDS],
]


@pytest.mark.parametrize("lockstep", [False, True])
@pytest.mark.parametrize("row", ROWS)
def test_every_process_evaluates_its_own_batch(
    row: list[dict[str, torch.Tensor]], lockstep: bool
) -> None:
    for rank in range(3):
        own = [batch for batch, is_own in forward_passes(row, rank, lockstep) if is_own]
        assert [id(batch) for batch in own] == [id(batch) for batch in row[rank : rank + 1]]


@pytest.mark.parametrize("row", ROWS)
def test_in_lockstep_all_processes_use_the_same_layers(row: list[dict[str, torch.Tensor]]) -> None:
    """At ZeRO 3 a layer's weights are gathered from all processes, so all must run the layer."""
    kinds = [[tuple(batch) for batch, _ in forward_passes(row, rank, True)] for rank in range(3)]
    assert kinds[0] == kinds[1] == kinds[2]
    assert set(kinds[0]) == {tuple(batch) for batch in row}
