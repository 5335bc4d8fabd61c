"""Two processes, and ZeRO 3, which needs processes of its own. One group trains everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.support.optimizers import (
    ADAMW,
    LARS,
    MASK,
    NESTEROV,
    SGD,
    STEPS,
    advance,
    batch_of,
    engine,
    in_torch,
    masks,
    plain_batches,
)
from trainables.distributed.collectives import current_peers
from trainables.distributed.launch import ParentCall, run_processes
from trainables.distributed.process import prepare_process
from trainables.errors import InvariantError
from trainables.spec import Recipe
from trainables.tickets.weights import kept_sha256, pruned_nonzero
from trainables.training.engine import Engine
from trainables.training.loop import task_state

Results = dict[str, Any]
BY_STEP = [[batch_of(step, step % 2)] for step in range(STEPS)]
"""Batches of which each step uses another branch."""
BY_MICRO_BATCH = [[batch_of(step, step % 2), batch_of(step + 9, 1)] for step in range(STEPS)]
"""Batches of which the micro-batches of some steps use different branches."""
RECIPES: dict[str, Recipe] = {
    "lars-0": LARS,
    "nesterov-0": NESTEROV,
    "nesterov-1": replace(NESTEROV, zero=1),
    "adamw-0-bf16": replace(ADAMW, precision="bf16", clip_norm=0.1),
    "sgd-2-bf16": replace(SGD, zero=2, precision="bf16"),
    "adamw-3": replace(ADAMW, zero=3),
    "nesterov-3": replace(NESTEROV, zero=3),
    "sgd-3-bf16": replace(SGD, zero=3, precision="bf16"),
}


def member(argument: bytes, call: ParentCall) -> Results:
    """Train under a ticket, stop, and resume; with branches; at each stage, 3 last. Both processes
    take the same batches."""
    prepare_process("cpu", 1)
    results = {name: _train_and_resume(recipe) for name, recipe in RECIPES.items()}
    results["task_state"] = _task_state_errors()
    for zero in (1, 3):
        for name, batches in (("by_step", BY_STEP), ("by_micro_batch", BY_MICRO_BATCH)):
            with engine(replace(SGD, zero=zero)) as running:  # type: ignore[arg-type]
                advance(running, batches, workers=2)
                results[f"{name}-{zero}"] = _arrays(running.weights())
    return results


def _train_and_resume(recipe: Recipe) -> Results:
    with engine(recipe) as running:
        advance(running, plain_batches()[:3], workers=2)
        halfway = [_shared(running, each) for each in (running.weights, running.optimizer_state)]
        advance(running, plain_batches(), first=3, workers=2)
        weights, state = running.weights(), running.optimizer_state()
        masters = kept_sha256(running.masters(), {})
    with engine(recipe) as resumed:
        resumed.set_weights(halfway[0])
        resumed.set_optimizer_state(halfway[1], 3)
        advance(resumed, plain_batches(), first=3, workers=2)
        again = kept_sha256(resumed.weights(), {})
    return {
        "weights": _arrays(weights),
        "state": {key: _arrays(values) for key, values in state.items()},
        "masters": current_peers().all_gather(np.frombuffer(masters.encode(), np.uint8)),
        "resumed": again,
    }


def _task_state_errors() -> list[str]:
    """Return the errors for a task whose state is the same in all processes, and for one whose
    state is not; rank 0 has none. All processes get those of rank 1."""
    errors = []
    for value in (1, current_peers().rank):
        task: Any = SimpleNamespace(state=lambda value=value: {"queue": torch.tensor([value])})
        try:
            task_state(task, current_peers())
            errors.append("")
        except InvariantError as error:
            errors.append(str(error))
    gathered: list[Any] = [None, None]
    torch.distributed.all_gather_object(gathered, errors)
    return list(gathered[1])


def _shared(running: Engine, collect: Callable[[], Any]) -> Any:
    """Send what rank 0 collects to all processes, as the checkpoint of a run is."""
    collected = [collect()]
    torch.distributed.broadcast_object_list(collected, 0)
    return collected[0]


def _arrays(tensors: dict[str, Tensor]) -> dict[str, NDArray[np.generic]]:
    return {name: value.numpy() for name, value in tensors.items()}


def _tensors(arrays: dict[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


@pytest.fixture(scope="module")
def results() -> Results:
    found: Results = run_processes(
        f"{__name__}:member", b"", lambda *call: None, count=2, device="cpu"
    )
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_masks_are_exact_and_resuming_changes_no_bit(results: Results, name: str) -> None:
    weights, kept = _tensors(results[name]["weights"]), masks()[MASK].sum()
    assert pruned_nonzero(weights, masks()) == 0
    assert torch.count_nonzero(weights[MASK]) == kept
    for values in results[name]["state"].values():
        if MASK in values:
            assert pruned_nonzero(_tensors(values), masks()) == 0
            assert np.count_nonzero(values[MASK]) == kept
    assert results[name]["resumed"] == kept_sha256(weights, {})


@pytest.mark.parametrize("name", RECIPES)
def test_all_processes_see_the_same_masters(results: Results, name: str) -> None:
    expected = kept_sha256(_tensors(results[name]["weights"]), {})
    assert [bytes(each).decode() for each in results[name]["masters"]] == [expected] * 2


@pytest.mark.parametrize("name", ["nesterov-0", "nesterov-1", "nesterov-3"])
def test_sgd_equals_torch_bit_for_bit_at_every_stage(results: Results, name: str) -> None:
    expected, momentum = in_torch(
        torch.optim.SGD,
        NESTEROV,
        plain_batches(),
        momentum=NESTEROV.momentum,
        nesterov=True,
        unused_is_zero=RECIPES[name].zero > 0,
    )
    assert kept_sha256(_tensors(results[name]["weights"]), {}) == kept_sha256(expected, {})
    if RECIPES[name].zero:
        own = _tensors(results[name]["state"]["momentum_buffer"])
        assert kept_sha256(own, {}) == kept_sha256(momentum, {})


@pytest.mark.parametrize("zero", [1, 3])
@pytest.mark.parametrize(
    ("name", "batches"), [("by_step", BY_STEP), ("by_micro_batch", BY_MICRO_BATCH)]
)
def test_an_unused_weight_has_gradient_zero(
    results: Results, name: str, batches: list[list[dict[str, Tensor]]], zero: int
) -> None:
    """At stage 3 DeepSpeed would use the gradient of its last use again."""
    expected, _ = in_torch(
        torch.optim.SGD, SGD, batches, momentum=SGD.momentum, unused_is_zero=True
    )
    actual = _tensors(results[f"{name}-{zero}"])
    for weight, value in expected.items():
        torch.testing.assert_close(actual[weight], value, rtol=0.0, atol=1e-7)


def test_a_task_state_that_differs_between_processes_is_caught(results: Results) -> None:
    same, different = results["task_state"]
    assert same == ""
    assert "process 1 of 2 has another than process 0" in different
