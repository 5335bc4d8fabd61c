"""Which process passes which batch of an evaluation that several share."""

from __future__ import annotations

import pytest
import torch

from trainables.training.evaluate import passes

WORDS, REGIONS = {"input_ids": torch.zeros(1)}, {"region_features": torch.zeros(1)}
ROWS = [
    [WORDS, dict(WORDS), dict(WORDS)],
    [WORDS, REGIONS, dict(WORDS)],
    [REGIONS, WORDS],
    [WORDS],
]


@pytest.mark.parametrize("in_step", [False, True])
@pytest.mark.parametrize("row", ROWS)
def test_every_batch_is_its_own_process_s(
    row: list[dict[str, torch.Tensor]], in_step: bool
) -> None:
    for rank in range(3):
        own = [batch for batch, mine in passes(row, rank, in_step) if mine]
        assert [id(batch) for batch in own] == [id(batch) for batch in row[rank : rank + 1]]


@pytest.mark.parametrize("row", ROWS)
def test_in_step_all_go_through_the_same_layers(row: list[dict[str, torch.Tensor]]) -> None:
    """At ZeRO 3 a layer's weights come from all processes, so all must ask for them."""
    ways = [[tuple(batch) for batch, _ in passes(row, rank, True)] for rank in range(3)]
    assert ways[0] == ways[1] == ways[2]
    assert set(ways[0]) == {tuple(batch) for batch in row}
