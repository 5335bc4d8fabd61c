"""Complete trials on a GPU, several in one process: equal bits, and no memory left allocated."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.support.runs import PRUNE, RECIPE, RecordingSink, inputs, masks_sha256, spec, ticket
from trainables.run import RunOutcome
from trainables.run_group import run
from trainables.spec import Recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
MODES = [
    RECIPE,
    replace(RECIPE, precision="bf16"),
    replace(RECIPE, zero=1, precision="bf16"),
    replace(RECIPE, zero=2, adversary="both"),
    replace(RECIPE, zero=3),
    replace(RECIPE, compile=True),
]


def trained(recipe: Recipe, workers: int = 1) -> tuple[RunOutcome, RecordingSink]:
    sink = RecordingSink()
    masked = spec(ticket="t", recipe=recipe)
    outcome = run(
        masked,
        inputs(device="cuda", ticket=ticket()),
        sink,
        workers=workers,
        prunes={"k": replace(PRUNE, sparsity=0.8)},
        rewinds={3, 6},
    )
    return outcome, sink


@pytest.mark.parametrize(
    "recipe", MODES, ids=["fp32", "bf16-0", "bf16-1", "adversary-2", "zero-3", "compile"]
)
def test_a_repeated_trial_gives_the_same_bits_and_frees_its_memory(recipe: Recipe) -> None:
    first, second = trained(recipe), trained(recipe)
    assert first[0] == second[0]
    assert first[0].gpu == torch.cuda.get_device_name()
    assert first[0].checks["pruned_nonzero"] == 0
    assert first[1].rewinds == second[1].rewinds
    assert masks_sha256(first[1].tickets["k"]) == masks_sha256(second[1].tickets["k"])
    assert second[0].costs["gpu_peak_mb"] <= first[0].costs["gpu_peak_mb"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_two_gpus_produce_the_ticket_of_one(zero: int) -> None:
    recipe = replace(RECIPE, dropout=0.0, clip_norm=0.0, zero=zero)  # type: ignore[arg-type]
    one, two = trained(replace(recipe, zero=0)), trained(recipe, workers=2)
    assert two[0].checks["pruned_nonzero"] == 0
    assert masks_sha256(one[1].tickets["k"]) == masks_sha256(two[1].tickets["k"])
