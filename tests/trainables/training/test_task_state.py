"""State of a task, a queue and a momentum encoder: in checkpoints, rewind points and hashes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import momentum_task
from tests.support.plugins import SOURCE, registered
from tests.support.runs import RECIPE, RecordingSink, inputs, spec, ticket
from trainables import run_group
from trainables.errors import CheckpointError, InvariantError
from trainables.run import RunOutcome, run
from trainables.spec import Start, TaskSpec, TrainSpec
from trainables.tasks import TASKS
from trainables.training.checkpoint import decode_checkpoint, encode_checkpoint
from trainables.user_modules import UserModule, uninstall

SHORT = replace(RECIPE, steps=4, batch_size=8, dropout=0.0, eval_every=0, eval_examples=8)


DENSE = spec(recipe=SHORT)
DENSE = replace(DENSE, task=TaskSpec(name="momentum", data=DENSE.task.data, source=SOURCE))
TICKET = ticket()


def masked(**changes: Any) -> TrainSpec:
    return replace(DENSE, ticket="t", recipe=replace(SHORT, **changes))


def trained(train_spec: TrainSpec, **changes: Any) -> tuple[RunOutcome, RecordingSink]:
    sink = RecordingSink()
    given = inputs(ticket=TICKET if train_spec.ticket else None, **changes)
    return run(train_spec, given, sink, rewinds={train_spec.first_step, 2, 4}), sink


@pytest.fixture(scope="module")
def complete() -> tuple[RunOutcome, RecordingSink]:
    with registered(TASKS, "momentum", momentum_task.ENTRY):
        return trained(masked())


@pytest.fixture(autouse=True)
def momentum(complete: object) -> Iterator[None]:
    with registered(TASKS, "momentum", momentum_task.ENTRY):
        yield


def point(sink: RecordingSink, step: int) -> dict[str, Tensor]:
    return decode_checkpoint(sink.rewinds[step])[0]


def checkpoint_of(train_spec: TrainSpec) -> bytes:
    """Return the checkpoint of a run that is interrupted after step 2."""
    sink = RecordingSink(interrupt_at=2)
    with pytest.raises(KeyboardInterrupt):
        run(train_spec, inputs(ticket=TICKET), sink, rewinds={0, 2, 4})
    return sink.checkpoints[-1]


@pytest.mark.parametrize("mode", [{}, {"zero": 2}, {"precision": "bf16"}], ids=str)
def test_a_resumed_run_equals_an_uninterrupted_one(
    complete: tuple[RunOutcome, RecordingSink], mode: dict[str, Any]
) -> None:
    expected, uninterrupted = trained(masked(**mode)) if mode else complete
    resumed, sink = trained(masked(**mode), checkpoint=checkpoint_of(masked(**mode)))
    assert resumed == expected
    assert sink.rewinds[4] == uninterrupted.rewinds[4]


def test_a_checkpoint_without_the_right_state_would_show(
    complete: tuple[RunOutcome, RecordingSink],
) -> None:
    """Control: the weights depend on the queue; a state of another layout is refused."""
    tensors, meta = decode_checkpoint(checkpoint_of(masked()))
    changed = tensors | {"task.queue": torch.zeros_like(tensors["task.queue"])}
    resumed, _ = trained(masked(), checkpoint=encode_checkpoint(changed, meta))
    assert resumed.checks["final_sha256"] != complete[0].checks["final_sha256"]
    del changed["task.queue"]
    with pytest.raises(CheckpointError, match=r"checkpoint: task\.queue"):
        trained(masked(), checkpoint=encode_checkpoint(changed, meta))


def test_the_momentum_encoder_averages_masters_under_the_ticket() -> None:
    _, sink = trained(masked(zero=1, precision="bf16"))
    start, middle = point(sink, 0), point(sink, 2)
    for name, keep in TICKET.arrays.items():
        pruned = torch.from_numpy(~keep)
        assert not middle[f"task.key.{name}"][pruned].any()
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(start[f"task.key.{name}"], start[f"backbone.{name}"])
    assert not torch.equal(middle[f"task.key.{name}"], start[f"task.key.{name}"])
    assert middle["task.pointer"] == 2 * SHORT.batch_size % momentum_task.QUEUE
    assert middle["task.pointer"].dtype == torch.int64


def test_a_run_rewinds_to_the_state_as_well() -> None:
    outcome, sink = trained(DENSE)
    rewound = replace(DENSE, start=Start(kind="rewind", trial="r"), first_step=2)
    again, replay = trained(rewound, rewind=point(sink, 2))
    assert replay.rewinds[2] == sink.rewinds[2]
    assert again.checks["final_sha256"] != outcome.checks["final_sha256"]  # a fresh optimizer
    theta = str(again.checks["theta_sha256"])
    trained(rewound, rewind=point(sink, 2), theta_sha256=theta)
    changed = point(sink, 2)
    changed["task.queue"] += 1.0
    with pytest.raises(InvariantError, match="every level must start from the same"):
        trained(rewound, rewind=changed, theta_sha256=theta)
    changed["task.queue"] = torch.zeros(2, 2)
    with pytest.raises(CheckpointError, match=r"rewind point: task.queue .* shape"):
        trained(rewound, rewind=changed)


def test_a_drawn_start_has_the_hash_of_its_rewind_point(
    complete: tuple[RunOutcome, RecordingSink],
) -> None:
    """So a level that is rewound to step 0 and one that is drawn again are the same."""
    _, dense = trained(DENSE)
    rewound = replace(masked(), start=Start(kind="rewind", trial="r"))
    again, _ = trained(rewound, rewind=point(dense, 0))
    assert again.checks == complete[0].checks


@pytest.mark.slow
def test_two_processes_that_exchange_their_keys_have_the_state_of_one() -> None:
    module = UserModule("momentum_file", "from tests.support.momentum_task import ENTRY as TASK")
    task = replace(DENSE.task, name="momentum_file", source=module.sha256)
    recipe = replace(SHORT, zero=2, clip_norm=0.0, optimizer="sgd", lr=1e-2)
    points = []
    for workers in (1, 2):
        sink = RecordingSink()
        given = inputs(ticket=TICKET, modules=(module,))
        train_spec = replace(masked(), task=task, recipe=recipe)
        run_group.run(train_spec, given, sink, workers=workers, rewinds={4})
        points.append(point(sink, 4))
    uninstall()
    assert points[0].keys() == points[1].keys()
    assert points[1]["task.pointer"] == 4 * SHORT.batch_size % momentum_task.QUEUE
    for name, value in points[0].items():
        torch.testing.assert_close(points[1][name], value, rtol=1e-4, atol=1e-6)
