"""Small sweeps of other kinds of tickets, trial by trial on one worker and a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from orchestrator.errors import InputError
from orchestrator.expand.studies import expand_sweep
from orchestrator.export.weights import export_ticket
from orchestrator.plan.graph import Plan
from orchestrator.schedule.failures import repeats
from orchestrator.store.s3 import S3ObjectStore, StoreAddress
from orchestrator.store.tickets import TrialStore
from orchestrator.sweep.config import Sweep
from orchestrator.sweep.resolve import Resolver
from orchestrator.worker.protocol import Assignment, Context
from orchestrator.worker.trial import TrialWorker
from tests.support.paths import ROOT
from tests.support.sweeps import sweep_document
from trainables.data.fingerprint import fingerprint
from trainables.errors import PluginError, TicketMismatch
from trainables.spec import PruneSpec, TrainSpec
from trainables.user_modules import UserModule, uninstall

STUDY = {
    "schedule": {"rate": 0.3, "levels": 2},
    "pruner": "toy",
    "controls": ["random", "random_layerwise"],
}


@pytest.fixture
def store(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrialStore]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    yield TrialStore(S3ObjectStore(StoreAddress(url=f"s3://tickets/{uuid4().hex}", endpoint=moto)))
    uninstall()


def resolved_with(file: str, **study: Any) -> Resolver:
    """Return the sweep of one study with the pruning method in `file`."""
    content = sweep_document(**STUDY, **study) | {
        "pruners": {"toy": {"module": str(ROOT / "tests/support" / file)}},
        "recipes": {"short": {"steps": 3, "batch_size": 8, "eval_examples": 32}},
    }
    return Resolver(Sweep.model_validate(content), fingerprint)


def started(store: TrialStore, resolved: Resolver, modules: tuple[UserModule, ...]) -> TrialWorker:
    """Return a worker for the sweep that has received the files `modules`."""
    context = Context(
        sweep="test",
        run="run",
        store=store.objects.address,  # type: ignore[attr-defined]
        locations=resolved.locations(),
        cache="unused",
        tracking="",
        threads=1,
        device="cpu",
        gpus=0,
        workers=1,
        nodes=1,
        stall_timeout_s=600,
        checkpoint_every_s=None,
        mtbf_s=1e6,
        modules=modules,
    )
    return TrialWorker(context, lambda: "continue")


def assignments(plan: Plan) -> Iterator[Assignment]:
    for trial in plan:
        if not trial.produced_by:
            members = (trial, *(each for each in plan if each.produced_by == trial.key))
            yield Assignment(trial, members)


def performed(store: TrialStore, file: str, **study: Any) -> tuple[Plan, TrialWorker]:
    """Run the sweep of one study with the pruning method in `file`."""
    resolved = resolved_with(file, **study)
    plan, worker = expand_sweep(resolved), started(store, resolved, resolved.modules)
    for assignment in assignments(plan):
        worker.perform(assignment)
    return plan, worker


def test_a_chain_of_another_kind_and_its_controls_run_and_are_read_back(
    store: TrialStore, tmp_path: Path
) -> None:
    plan, worker = performed(store, "toy_kind.py")
    records = store.records()
    assert records.keys() == plan.trials.keys()
    kept: dict[int, set[int]] = {}
    for trial in plan:
        ref = records[trial.key].ticket
        if isinstance(trial.spec, PruneSpec):
            assert ref is not None
            ticket = store.ticket(ref.sha256)
            assert (ticket.kind, ticket.total) == ("toy_kind", 1_216)
            kept.setdefault(trial.level, set()).add(ticket.kept)
        elif isinstance(trial.spec, TrainSpec) and trial.spec.ticket:
            assert ref == records[trial.spec.ticket].ticket
            assert records[trial.key].checks["pruned_nonzero"] == 0
    assert kept == {1: {851}, 2: {486}}

    record = next(each for each in records.values() if each.kind == "prune")
    files = export_ticket(store, record, "masks", tmp_path, None)
    assert [file.name for file in files] == ["masks.safetensors"]
    with pytest.raises(InputError, match="a ticket over channels sets no weights to zero"):
        export_ticket(store, record, "prune", tmp_path, None)

    applied = next(t for t in plan if isinstance(t.spec, TrainSpec) and t.spec.ticket)
    assert isinstance(applied.spec, TrainSpec)
    wider = replace(applied.spec.model, overrides=(("intermediate_size", 128),))
    with pytest.raises(TicketMismatch, match="another configuration"):
        worker._inputs.for_training(replace(applied.spec, model=wider))


def test_a_search_and_its_tickets_run_and_keep_their_scores(store: TrialStore) -> None:
    plan, _ = performed(store, "toy_search.py", tickets=["search"])
    records = store.records()
    assert records.keys() == plan.trials.keys()
    found = [records[t.key].ticket for t in plan if t.spec and t.produced_by]
    tickets = [store.ticket(ref.sha256) for ref in found if ref is not None]
    assert [ticket.kept for ticket in tickets] == [3, 2]
    first, second = (ticket.scores()["blocks"].tolist() for ticket in tickets)
    assert first == second
    assert len(set(first)) == 4


def test_a_file_that_a_worker_cannot_import_is_an_error_of_the_trial(store: TrialStore) -> None:
    """An exit of the worker at its start would be tried again, each time in a new process."""
    resolved = resolved_with("toy_kind.py")
    plan = expand_sweep(resolved)
    broken = UserModule("toy_kind", "import a_package_that_is_not_on_this_machine")
    worker, assignment = started(store, resolved, (broken,)), next(assignments(plan))
    with pytest.raises(PluginError, match=r"toy_kind\.py: cannot be imported") as caught:
        worker.perform(assignment)
    assert repeats(caught.value), "it is given up at once"
    key = assignment.trial.key
    assert store.failures([key])[key]["error"] == str(caught.value)
    assert "a_package_that_is_not_on_this_machine" in store.log(key)
