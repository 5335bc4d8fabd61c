"""Which failures are tried again."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Callable

import pyarrow
import pytest
import torch
from PIL import Image
from ray.exceptions import RayTaskError

from orchestrator import errors
from orchestrator.schedule.failures import MAX_NODE_LOSSES, Failure, LimitedRetries, repeats
from orchestrator.schedule.frontier import WorkItem
from trainables.distributed.launch import rebuild_error
from trainables.errors import (
    CheckpointError,
    DataError,
    GroupError,
    InvariantError,
    PluginError,
    RecipeError,
    TicketMismatch,
    TrainableError,
    is_damage,
)
from trainables.errors import repeats as of_trial


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
        ValueError("a value that the code cannot use"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        json.JSONDecodeError("not JSON", "{", 0),
        pyarrow.ArrowInvalid("not a table"),
        IndexError("index out of range in self"),
        KeyError("answers"),
        FileNotFoundError("vocab.txt"),
        DataError("cannot be decoded", repeats=True),
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
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EIO, "Input/output error"),
        PermissionError(errno.EACCES, "Permission denied"),
        ConnectionResetError("by peer"),
        TimeoutError(),
        caused(DataError("cannot be read"), OSError(errno.EIO, "Input/output error")),
        RayTaskError("f", "trace", ValueError("in an actor")).as_instanceof_cause(),
        ImportError("on this machine only"),
    ],
)
def test_errors_of_the_store_a_machine_or_unknown_ones_may_heal(error: Exception) -> None:
    assert not repeats(error)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: torch.ones(2, 3) @ torch.ones(2, 3),
        lambda: torch.ones(2) + torch.ones(3),
        lambda: torch.ones(4).view(3),
        lambda: torch.ones(2).copy_(torch.ones(3)),
        lambda: torch.cat([torch.ones(2, 2), torch.ones(2, 3)], 0),
        lambda: torch.nn.Linear(2, 2).load_state_dict({"weight": torch.ones(3), "bias": None}),
        lambda: torch.nn.Linear(2, 2).load_state_dict(torch.nn.Linear(3, 2).state_dict()),
        lambda: torch.nn.Conv2d(3, 2, 1)(torch.ones(1, 2, 4, 4)),
        lambda: torch.nn.Embedding(2, 2)(torch.tensor([2])),
        lambda: torch.nn.Linear(2, 2)(torch.ones(1, 2, dtype=torch.float64)),
        lambda: torch.nn.functional.cross_entropy(torch.ones(1, 2), torch.tensor([5])),
    ],
)
def test_shapes_types_and_indices_that_torch_refuses_repeat(wrong: Callable[[], object]) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        wrong()
    assert repeats(caught.value), repr(caught.value)


def test_an_error_without_a_number_while_decoding_is_of_the_content() -> None:
    with pytest.raises(OSError, match="cannot identify") as caught:
        Image.open(io.BytesIO(b"no picture"))
    assert is_damage(caught.value)
    assert not is_damage(OSError(errno.EIO, "Input/output error"))


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (caused(DataError("cannot be read"), OSError(errno.EIO, "Input/output error")), False),
        (DataError("not JSON"), True),
        (IndexError("index out of range in self"), True),
        (RuntimeError("Connection closed by peer"), False),
    ],
)
def test_a_process_of_a_group_reports_whether_its_error_repeats(
    error: Exception, again: bool
) -> None:
    """The parent does not get the cause."""
    rebuilt = rebuild_error(1, 2, type(error).__name__, str(error), "", of_trial(error))
    assert str(error) in str(rebuilt)
    assert repeats(rebuilt) is again


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
