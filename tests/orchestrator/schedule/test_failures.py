"""Which failures are tried again."""

from __future__ import annotations

import pytest

from orchestrator import errors
from orchestrator.schedule.failures import MAX_NODE_LOSSES, Failure, LimitedRetries, repeats
from orchestrator.schedule.frontier import WorkItem
from trainables.errors import (
    CheckpointError,
    DataError,
    GroupError,
    InvariantError,
    PluginError,
    RecipeError,
    TicketMismatch,
    TrainableError,
)


def item(*, failures: int = 0, node_losses: int = 0) -> WorkItem:
    return WorkItem("k", "m", "t", 1.0, failures=failures, node_losses=node_losses)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        TrainableError("no such option"),
        DataError("no such file"),
        caused(DataError("no such file"), FileNotFoundError()),
        caused(DataError("not JSON"), ValueError()),
        CheckpointError("does not fit"),
        TicketMismatch("of another model"),
        RecipeError("warmup"),
        InvariantError("not finite"),
        PluginError("another version"),
        errors.ConfigError("wrong"),
    ],
)
def test_errors_of_the_spec_or_its_inputs_repeat(error: Exception) -> None:
    assert repeats(error)


@pytest.mark.parametrize(
    "error",
    [
        GroupError("a process was killed"),
        caused(DataError("cannot be read"), OSError("stale file handle")),
        errors.StoreUnreachable("no answer"),
        errors.Damaged("half an object"),
        errors.Conflict("another result"),
        errors.MachineLost("gone"),
        MemoryError(),
        RuntimeError("CUDA out of memory"),
        ValueError("a bug"),
    ],
)
def test_errors_of_the_store_a_machine_or_unknown_ones_may_heal(error: Exception) -> None:
    assert not repeats(error)


def test_an_item_is_given_up_at_its_last_failure() -> None:
    policy = LimitedRetries(max_failures=3)
    actions = [policy.after(item(failures=n), Failure("broken")).action for n in range(3)]
    assert actions == ["retry", "retry", "give_up"]
    assert policy.after(item(failures=2), Failure("broken")).error == "broken"


def test_an_error_that_repeats_says_that_it_is_not_retried() -> None:
    decision = LimitedRetries(max_failures=3).after(item(), Failure("broken", repeats=True))
    assert decision.action == "give_up"
    assert decision.error == "broken (not retried, since it would fail again)"


def test_lost_nodes_count_only_when_there_are_many() -> None:
    policy = LimitedRetries(max_failures=1)
    lost = Failure("gone", node_lost=True)
    assert policy.after(item(node_losses=MAX_NODE_LOSSES - 1), lost).action == "requeue"
    decision = policy.after(item(node_losses=MAX_NODE_LOSSES), lost)
    assert decision.action == "give_up"
    assert "20 nodes were lost" in decision.error
