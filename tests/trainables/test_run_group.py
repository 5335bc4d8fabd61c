"""Trials in several processes compared with the same trial in one."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.plugins import registered
from tests.support.runs import PRUNE, RECIPE, RecordingSink, inputs, masks_sha256, spec, ticket
from trainables.distributed.collectives import current_peers
from trainables.distributed.launch import ParentCall, run_processes
from trainables.errors import InvariantError, PluginError, RecipeError, Stopped
from trainables.run import RunOutcome
from trainables.run import run as run_in_process
from trainables.run_group import pack_arguments, run, run_member, sink_handler
from trainables.spec import PruneSpec, Recipe
from trainables.tickets import TICKET_KINDS
from trainables.tickets.base import Ticket
from trainables.training import checkpoint
from trainables.training.checkpoint import decode_checkpoint
from trainables.training.sink import Action
from trainables.user_modules import uninstall

NO_DROPOUT = replace(RECIPE, dropout=0.0)
"""A group draws dropout per micro-batch, a single process per step."""
ROUNDING = NO_DROPOUT.lr / 10
"""Limit of differences caused by rounding. Adam moves a weight by up to lr even if its gradient is
almost zero, with the gradient's sign, so the last bit of a sum can matter. Measured: 6e-5 at a
learning rate of 2e-3."""
PRUNES: Mapping[str, PruneSpec] = {
    "global": replace(PRUNE, sparsity=0.8),
    "layer": replace(PRUNE, sparsity=0.8, scope="layer"),
    "random": replace(PRUNE, sparsity=0.8, method="random"),
}


@dataclass
class StoppingSink(RecordingSink):
    """Stops the run after step `at`."""

    at: int = 0
    steps: list[int] = field(default_factory=list)

    def next_action(self, step: int) -> Action:
        self.steps.append(step)
        return "stop" if step == self.at else "continue"


def trained(recipe: Recipe, workers: int, **changes: Any) -> tuple[RunOutcome, RecordingSink]:
    sink = RecordingSink()
    masked = spec(ticket="t", recipe=recipe)
    run_inputs = inputs(ticket=ticket(), **changes)
    outcome = run(masked, run_inputs, sink, workers=workers, prunes=PRUNES, rewinds={0, 3, 6})
    return outcome, sink


def weights(sink: RecordingSink, step: int = 6) -> dict[str, Tensor]:
    return decode_checkpoint(sink.rewinds[step])[0]


def largest_difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def hashes(sink: RecordingSink) -> dict[str, str]:
    return {key: masks_sha256(masks) for key, masks in sink.tickets.items()}


def same(a: tuple[RunOutcome, RecordingSink], b: tuple[RunOutcome, RecordingSink]) -> bool:
    return (
        a[0] == b[0]
        and a[1].rewinds == b[1].rewinds
        and hashes(a[1]) == hashes(b[1])
        and a[1].points == b[1].points
    )


def test_two_processes_stop_and_one_resumes_to_the_same_bits() -> None:
    """With one micro-batch per process the order of the gradients' sum does not matter."""
    one, stopped, resumed = trained(NO_DROPOUT, 1), StoppingSink(at=4), RecordingSink()
    masked = spec(ticket="t", recipe=NO_DROPOUT)
    with pytest.raises(Stopped, match="step 4 of 6"):
        run(masked, inputs(ticket=ticket()), stopped, workers=2, prunes=PRUNES, rewinds={0, 3, 6})
    assert stopped.steps == [1, 2, 3, 4]
    assert stopped.points == one[1].points[:4]
    given = inputs(ticket=ticket(), checkpoint=stopped.checkpoints[-1])
    outcome = run_in_process(masked, given, resumed, prunes=PRUNES, rewinds={0, 3, 6})
    assert outcome == one[0]
    assert stopped.rewinds | resumed.rewinds == one[1].rewinds
    assert hashes(resumed) == hashes(one[1])


@dataclass
class CountingSink(RecordingSink):
    """Counts the optimizers that exist during the run."""

    optimizers: int = 0

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        self.optimizers = count_optimizers()


def count_optimizers() -> int:
    return sum(type(one) is torch.optim.AdamW for one in gc.get_objects())


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_a_trial_leaves_no_optimizer_in_its_process(zero: int) -> None:
    """Otherwise its GPU memory would stay allocated during the next trial. The memory of a failed
    trial is released when the next one begins."""
    recipe = replace(RECIPE, zero=zero)  # type: ignore[arg-type]
    gc.collect()
    before = count_optimizers()
    with pytest.raises(KeyboardInterrupt) as failed:
        run(spec(recipe=recipe), inputs(), RecordingSink(interrupt_at=2))
    del failed
    sink = CountingSink()
    run(spec(recipe=recipe), inputs(), sink)
    assert (sink.optimizers, count_optimizers()) == (before + 1, before)


def run_member_slowly(argument: bytes, call: ParentCall) -> RunOutcome:
    """`run_member`, but rank 0 takes long for each checkpoint."""
    encode = checkpoint.encode_checkpoint

    def encode_slowly(*arguments: Any) -> bytes:
        time.sleep(2.0 * current_peers().is_first)
        return encode(*arguments)

    checkpoint.encode_checkpoint = encode_slowly
    return run_member(argument, call)


@pytest.mark.slow
def test_a_stopping_group_waits_until_its_state_is_saved() -> None:
    stopped = StoppingSink(at=2)
    argument = pack_arguments(spec(recipe=NO_DROPOUT), inputs(), prunes={}, rewinds=(), until=None)
    with pytest.raises(Stopped, match="step 2 of 6"):
        run_processes(
            f"{__name__}:run_member_slowly",
            argument,
            sink_handler(stopped),
            count=2,
            device="cpu",
        )
    assert len(stopped.checkpoints) == 1


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_every_stage_gives_the_results_of_one_process(zero: int) -> None:
    """With one micro-batch per process, and without clipping, whose norm is a sum over shards.

    Weights may differ in the last bit at the end of a shard: torch's fused AdamW computes what does
    not fill a vector of the CPU (8 floats or 16) with other instructions.
    """
    recipe = replace(NO_DROPOUT, zero=zero, clip_norm=0.0)  # type: ignore[arg-type]
    one, two = trained(recipe, 1), trained(recipe, 2)
    assert two[0].checks["pruned_nonzero"] == 0
    assert largest_difference(weights(one[1]), weights(two[1])) < 1e-9
    assert one[0].scores == two[0].scores
    assert one[1].points == two[1].points
    assert hashes(one[1]) == hashes(two[1])


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 3])
def test_bfloat16_in_a_group_gives_the_same_ticket_and_almost_the_same_weights(zero: int) -> None:
    recipe = replace(NO_DROPOUT, zero=zero, clip_norm=0.0, precision="bf16")  # type: ignore[arg-type]
    one, two = trained(recipe, 1), trained(recipe, 2)
    assert two[0].checks["pruned_nonzero"] == 0
    assert largest_difference(weights(one[1]), weights(two[1])) < 1e-8
    assert hashes(one[1]) == hashes(two[1])


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_four_processes_differ_only_by_rounding(zero: int) -> None:
    recipe = replace(NO_DROPOUT, zero=zero, accumulate=4)  # type: ignore[arg-type]
    one, four = trained(recipe, 1), trained(recipe, 4)
    assert largest_difference(weights(one[1]), weights(four[1])) < ROUNDING
    for key, ticket_of_one in one[1].tickets.items():
        masks, others = ticket_of_one.arrays, four[1].tickets[key].arrays
        differing = sum(int((masks[n] != others[n]).sum()) for n in masks)
        assert differing <= 10, key
    assert four[0].scores["score"] == pytest.approx(one[0].scores["score"], abs=3.2)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_micro_batches_are_split_if_there_are_fewer_than_processes(workers: int) -> None:
    recipe = replace(NO_DROPOUT, accumulate=1)
    one, several = trained(recipe, 1), trained(recipe, workers)
    assert largest_difference(weights(one[1]), weights(several[1])) < ROUNDING
    losses = [[p["loss"] for _, p in sink.points if "loss" in p] for _, sink in (one, several)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_a_checkpoint_resumes_at_another_stage_and_world_size() -> None:
    recipe = replace(NO_DROPOUT, clip_norm=0.0)
    sharded = replace(recipe, zero=3)
    stopped = StoppingSink(at=3)
    masked = spec(ticket="t", recipe=sharded)
    with pytest.raises(Stopped):
        run(masked, inputs(ticket=ticket()), stopped, workers=4)
    given = inputs(ticket=ticket(), checkpoint=stopped.checkpoints[-1])
    two = run(masked, given, RecordingSink(), workers=2)
    one = trained(recipe, 1)
    assert [p["step"] for p in two.history] == [p["step"] for p in one[0].history]
    for actual, expected in zip(two.history, one[0].history, strict=True):
        assert actual["loss"] == pytest.approx(expected["loss"], rel=1e-4)


@pytest.mark.slow
def test_adversarial_training_in_a_group_differs_only_by_rounding() -> None:
    recipe = replace(NO_DROPOUT, adversary="both", adversary_steps=2, adversary_lr=0.1, zero=2)
    one, two = trained(recipe, 1), trained(recipe, 2)
    assert largest_difference(weights(one[1]), weights(two[1])) < ROUNDING


@pytest.mark.slow
def test_dropout_in_a_group_is_reproducible() -> None:
    assert same(trained(RECIPE, 2), trained(RECIPE, 2))


@pytest.mark.slow
def test_a_group_that_diverges_fails_with_the_error_of_its_members() -> None:
    diverging = spec(recipe=replace(RECIPE, lr=1e30, warmup=0.0))
    sink = RecordingSink()
    with pytest.raises(InvariantError, match="finite"):
        run(diverging, inputs(), sink, workers=2, prunes={"k": PRUNE})
    assert sink.tickets == {}


def test_a_recipe_that_cannot_be_trained_starts_no_process() -> None:
    sharded = replace(RECIPE, zero=3, compile=True)
    with pytest.raises(RecipeError, match="zero = 3"):
        run(spec(recipe=sharded), inputs(), RecordingSink(), workers=2)


def test_the_kind_of_the_ticket_is_checked_on_every_machine() -> None:
    entry = TICKET_KINDS["weights"]
    given = inputs(ticket=Ticket(ticket().arrays, "own_kind"))
    with registered(TICKET_KINDS, "own_kind", entry):
        argument = pack_arguments(spec(ticket="t"), given, prunes={}, rewinds=(), until=None)
    TICKET_KINDS.add("own_kind", entry, "6" * 64)
    try:
        with pytest.raises(PluginError, match=r"'own_kind': .* has another version"):
            run_member(argument, lambda name, *arguments, blob=None: None)
    finally:
        uninstall()
