"""Trials of several processes against the same trial in one."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.runs import CUT, RECIPE, Kept, bits, inputs, spec, ticket
from trainables import run as single
from trainables.distributed.collectives import here
from trainables.distributed.launch import Call, together
from trainables.errors import InvariantError, RecipeError, Stopped
from trainables.run import Outcome
from trainables.run_group import member, packed, run, serving
from trainables.spec import CutSpec, Recipe
from trainables.training import checkpoint
from trainables.training.checkpoint import decode
from trainables.training.sink import Turn

STILL = replace(RECIPE, dropout=0.0)
"""Dropout is drawn for each micro-batch in a group, for a whole step in one process."""
ROUNDING = STILL.lr / 10
"""Adam takes a step of up to lr where a gradient is next to nothing, whatever its sign: so the last
bit of a sum can move a weight so far. Measured: 6e-5, at a learning rate of 2e-3."""
CUTS: Mapping[str, CutSpec] = {
    "global": replace(CUT, sparsity=0.8),
    "layer": replace(CUT, sparsity=0.8, scope="layer"),
    "random": replace(CUT, sparsity=0.8, method="random"),
}


@dataclass
class Stopping(Kept):
    """Asks for an end after step `at`."""

    at: int = 0
    asked: list[int] = field(default_factory=list)

    def turn(self, step: int) -> Turn:
        self.asked.append(step)
        return "stop" if step == self.at else "go on"


def trained(recipe: Recipe, workers: int, **given: Any) -> tuple[Outcome, Kept]:
    sink = Kept()
    masked = spec(ticket="worn", recipe=recipe)
    asked = inputs(ticket=ticket(), **given)
    outcome = run(masked, asked, sink, workers=workers, cuts=CUTS, rewinds={0, 3, 6})
    return outcome, sink


def weights(sink: Kept, step: int = 6) -> dict[str, Tensor]:
    return decode(sink.rewinds[step])[0]


def furthest(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def same(a: tuple[Outcome, Kept], b: tuple[Outcome, Kept]) -> bool:
    return (
        a[0] == b[0]
        and a[1].rewinds == b[1].rewinds
        and {k: bits(m) for k, m in a[1].cuts.items()} == {k: bits(m) for k, m in b[1].cuts.items()}
        and a[1].points == b[1].points
    )


def test_two_processes_stop_where_asked_and_one_goes_on_to_the_same_bits() -> None:
    """Two micro-batches, one for each: their gradients' sum has one order only."""
    whole, stopped, rest = trained(STILL, 1), Stopping(at=4), Kept()
    masked = spec(ticket="worn", recipe=STILL)
    with pytest.raises(Stopped, match="step 4 of 6"):
        run(masked, inputs(ticket=ticket()), stopped, workers=2, cuts=CUTS, rewinds={0, 3, 6})
    assert stopped.asked == [1, 2, 3, 4]
    assert stopped.points == whole[1].points[:4]
    given = inputs(ticket=ticket(), checkpoint=stopped.checkpoints[-1])
    outcome = single.run(masked, given, rest, cuts=CUTS, rewinds={0, 3, 6})
    assert outcome == whole[0]
    assert stopped.rewinds | rest.rewinds == whole[1].rewinds
    assert {k: bits(m) for k, m in rest.cuts.items()} == {
        k: bits(m) for k, m in whole[1].cuts.items()
    }


@dataclass
class Counting(Kept):
    """Counts the optimizers that are there during the run."""

    optimizers: int = 0

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        self.optimizers = optimizers()


def optimizers() -> int:
    return sum(type(one) is torch.optim.AdamW for one in gc.get_objects())


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_nothing_of_a_trial_is_left_in_its_process(zero: int) -> None:
    """Else a GPU would hold it beside the next one. One that failed goes when the next begins."""
    recipe = replace(RECIPE, zero=zero)  # type: ignore[arg-type]
    gc.collect()
    before = optimizers()
    with pytest.raises(KeyboardInterrupt) as failed:
        run(spec(recipe=recipe), inputs(), Kept(kill_at=2))
    del failed
    sink = Counting()
    run(spec(recipe=recipe), inputs(), sink)
    assert (sink.optimizers, optimizers()) == (before + 1, before)


def hesitant(argument: bytes, call: Call) -> Outcome:
    """`group.member`, but the first process takes long over each checkpoint."""
    encode = checkpoint.encode

    def slowly(*given: Any) -> bytes:
        time.sleep(2.0 * here().first)
        return encode(*given)

    checkpoint.encode = slowly
    return member(argument, call)


@pytest.mark.slow
def test_a_group_that_stops_ends_when_its_state_is_safe() -> None:
    stopped = Stopping(at=2)
    work = packed(spec(recipe=STILL), inputs(), cuts={}, rewinds=(), until=None)
    with pytest.raises(Stopped, match="step 2 of 6"):
        together(f"{__name__}:hesitant", work, serving(stopped), count=2, device="cpu")
    assert len(stopped.checkpoints) == 1


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_every_stage_gives_the_bits_of_one_process_where_the_sums_have_one_order(zero: int) -> None:
    """The norm that gradients are clipped by is a sum over shards, so it is left out."""
    recipe = replace(STILL, zero=zero, clip_norm=0.0)  # type: ignore[arg-type]
    one, two = trained(recipe, 1), trained(recipe, 2)
    assert two[0].checks["pruned_nonzero"] == 0
    assert same(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 3])
def test_bfloat16_in_a_group_keeps_the_ticket_and_nearly_the_bits(zero: int) -> None:
    recipe = replace(STILL, zero=zero, clip_norm=0.0, precision="bf16")  # type: ignore[arg-type]
    one, two = trained(recipe, 1), trained(recipe, 2)
    assert two[0].checks["pruned_nonzero"] == 0
    assert furthest(weights(one[1]), weights(two[1])) < 1e-8
    assert {k: bits(m) for k, m in one[1].cuts.items()} == {
        k: bits(m) for k, m in two[1].cuts.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_four_processes_differ_by_rounding_alone(zero: int) -> None:
    recipe = replace(STILL, zero=zero, accumulate=4)  # type: ignore[arg-type]
    one, four = trained(recipe, 1), trained(recipe, 4)
    assert furthest(weights(one[1]), weights(four[1])) < ROUNDING
    for key, masks in one[1].cuts.items():
        differing = sum(int((masks[n] != four[1].cuts[key][n]).sum()) for n in masks)
        assert differing <= 10, key
    assert four[0].scores["score"] == pytest.approx(one[0].scores["score"], abs=3.2)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_micro_batches_are_split_where_there_are_fewer_than_processes(workers: int) -> None:
    recipe = replace(STILL, accumulate=1)
    one, several = trained(recipe, 1), trained(recipe, workers)
    assert furthest(weights(one[1]), weights(several[1])) < ROUNDING
    losses = [[p["loss"] for _, p in sink.points if "loss" in p] for _, sink in (one, several)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_a_checkpoint_moves_between_stages_and_worlds() -> None:
    recipe = replace(STILL, clip_norm=0.0)
    sharded = replace(recipe, zero=3)
    stopped, rest = Stopping(at=3), Kept()
    masked = spec(ticket="worn", recipe=sharded)
    with pytest.raises(Stopped):
        run(masked, inputs(ticket=ticket()), stopped, workers=4)
    given = inputs(ticket=ticket(), checkpoint=stopped.checkpoints[-1])
    two = run(masked, given, rest, workers=2)
    whole = trained(recipe, 1)
    last = [dict(p) for p in two.history]
    assert [p["step"] for p in last] == [p["step"] for p in whole[0].history]
    for found, expected in zip(last, whole[0].history, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)


@pytest.mark.slow
def test_the_adversary_trains_in_a_group() -> None:
    recipe = replace(STILL, adversary="both", adversary_steps=2, adversary_lr=0.1, zero=2)
    one, two = trained(recipe, 1), trained(recipe, 2)
    assert furthest(weights(one[1]), weights(two[1])) < ROUNDING


@pytest.mark.slow
def test_dropout_repeats_in_a_group() -> None:
    assert same(trained(RECIPE, 2), trained(RECIPE, 2))


@pytest.mark.slow
def test_a_group_that_diverges_fails_with_the_word_of_its_members() -> None:
    wild = spec(recipe=replace(RECIPE, lr=1e30, warmup=0.0))
    sink = Kept()
    with pytest.raises(InvariantError, match="finite"):
        run(wild, inputs(), sink, workers=2, cuts={"k": CUT})
    assert sink.cuts == {}


def test_a_recipe_that_cannot_be_trained_starts_no_process() -> None:
    sharded = replace(RECIPE, zero=3, compile=True)
    with pytest.raises(RecipeError, match="zero = 3"):
        run(spec(recipe=sharded), inputs(), Kept(), workers=2)
