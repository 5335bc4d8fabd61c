"""Ticket kinds and methods from a user's own files, in real runs of a tiny model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.store import parquet
from orchestrator.store.ticket import Ticket as StoredTicket
from tests.support.paths import ROOT
from tests.support.runs import MODEL, RecordingSink, inputs, spec
from trainables.errors import InvariantError, PluginError, RecipeError, TicketMismatch
from trainables.pruning import PRUNERS, check_prune
from trainables.run import prune, run
from trainables.spec import PruneSpec, Search, Start, TrainSpec
from trainables.tickets import TICKET_KINDS
from trainables.tickets.base import Ticket
from trainables.user_modules import UserModule, install, read_user_module, uninstall

CHANNELS = 1_216
"""Output channels of the matrices in the default pool of `MODEL`."""
DROP_REGIONS = '''
"""A ticket over the regions of an image: those that are off are not given to the network."""
from contextlib import contextmanager

from trainables.tickets import TicketKind
from trainables.tickets.base import Applied, Budget, Ticket

TICKET_KIND = TicketKind(module=__name__, units="regions", violation="batches had other regions")


def space(backbone, pool):
    return {"regions": (REGIONS,)}


def weight_masks(shapes, arrays):
    return {}


@contextmanager
def applied(net, arrays):
    kept, wrong = Ticket(arrays).kept, []

    def transform(batch):
        names = [name for name in batch if name.startswith("region_")]
        return {**batch, **{name: batch[name][:, arrays["regions"]] for name in names}}

    def watch(net, batch):
        if batch[0]["region_features"].shape[1] != kept:
            wrong.append(batch)

    hook = net.register_forward_pre_hook(watch)
    yield Applied(violations=lambda *_: len(wrong), transform=transform)
    hook.remove()


def budget(net, arrays):
    parameters = sum(weight.numel() for weight in net.parameters())
    return Budget(kept=Ticket(arrays).kept, total=arrays["regions"].size, parameters=parameters)
'''
REGIONS = 2
"""Of each image of easy-VQA."""


def installed(module: UserModule) -> Iterator[ModuleType]:
    install([module])
    yield sys.modules[module.module_name]
    uninstall()


@pytest.fixture
def channels() -> Iterator[ModuleType]:
    yield from installed(read_user_module(ROOT / "tests/support/toy_kind.py"))


@pytest.fixture
def blocks() -> Iterator[ModuleType]:
    yield from installed(read_user_module(ROOT / "tests/support/toy_search.py"))


def rule(name: str, **fields: Any) -> PruneSpec:
    """Return the spec of a ticket of a toy kind, by its own method unless another is given."""
    source = TICKET_KINDS.source_of(name)
    method = {"method": name, "source": source} if "method" not in fields else {}
    rest = {"ticket_kind": name, "kind_source": source, **method, **fields}
    return PruneSpec(**{"model": MODEL, "sparsity": 0.5, **rest})


@pytest.fixture
def searching(blocks: ModuleType) -> TrainSpec:
    source = PRUNERS.source_of("toy_search")
    return spec(search=Search(method="toy_search", source=source))


def under() -> TrainSpec:
    return spec(ticket="t")


def test_a_run_trains_under_a_ticket_of_another_kind_and_yields_the_next(
    channels: ModuleType,
) -> None:
    ticket = prune(rule("toy_kind", start=Start()), inputs())
    assert (ticket.kind, ticket.kept) == ("toy_kind", CHANNELS // 2)
    sink = RecordingSink()
    child = rule("toy_kind", sparsity=0.75, run="r")
    outcome = run(under(), inputs(ticket=ticket), sink, prunes={"k": child})
    assert outcome.checks["pruned_nonzero"] == 0
    assert sink.tickets["k"].kept == CHANNELS // 4
    for name, kept in sink.tickets["k"].arrays.items():
        assert (kept <= ticket.arrays[name]).all()
    rows = sum(int((~each).sum()) for each in ticket.arrays.values())
    dense = run(spec(), inputs(), RecordingSink())
    # Each channel has 64 or 256 weights and a bias.
    assert dense.costs["parameters"] - outcome.costs["parameters"] >= 65 * rows
    assert outcome.history != dense.history
    assert outcome.checks["start_sha256"] == dense.checks["start_sha256"]


def test_a_ticket_that_is_not_applied_is_caught(
    channels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "_switch_off", lambda keep, layer, inputs, output: output)
    ticket = prune(rule("toy_kind", start=Start()), inputs())
    sink = RecordingSink()
    with pytest.raises(InvariantError, match="channels that are off had outputs"):
        run(under(), inputs(ticket=ticket), sink, prunes={"k": rule("toy_kind", run="r")})
    assert sink.tickets == {}


def test_random_tickets_are_drawn_over_any_space_or_copy_counts(channels: ModuleType) -> None:
    reference = prune(rule("toy_kind", start=Start(), sparsity=0.9), inputs())
    random = rule("toy_kind", method="random", sparsity=0.9)
    free = prune(random, inputs())
    alike = prune(replace(random, like="t"), inputs(reference=reference))
    assert free.kind == alike.kind == "toy_kind"
    assert free.kept == alike.kept == reference.kept
    counts = [[each.sum() for each in ticket.arrays.values()] for ticket in (alike, reference)]
    assert counts[0] == counts[1]
    assert any((alike.arrays[n] != reference.arrays[n]).any() for n in reference.arrays)


def test_kinds_do_not_mix(channels: ModuleType, blocks: ModuleType) -> None:
    weights = prune(PruneSpec(model=MODEL, method="random", sparsity=0.5), inputs())
    ticket = prune(rule("toy_kind", start=Start()), inputs())
    with pytest.raises(TicketMismatch, match="of the kind 'weights'"):
        prune(rule("toy_kind", method="random", like="t"), inputs(reference=weights))
    child = PruneSpec(model=MODEL, sparsity=0.8, run="r")
    with pytest.raises(TicketMismatch, match="of the kind 'toy_kind'"):
        run(under(), inputs(ticket=ticket), RecordingSink(), prunes={"k": child})
    for kind in ("toy_kind", "toy_search"):
        with pytest.raises(TicketMismatch):
            run(under(), inputs(ticket=Ticket(weights.arrays, kind)), RecordingSink())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magnitude", "start": Start()}, "makes no tickets of the kind 'toy_search'"),
        ({"method": "toy_kind", "start": Start()}, "makes no tickets of the kind 'toy_search'"),
        ({"method": "random", "ticket_kind": "feathers"}, "kind 'feathers'"),
        ({"method": "toy_search"}, "needs its search during a training run"),
        ({"method": "toy_kind", "ticket_kind": "toy_kind"}, "needs weights"),
        ({"method": "none"}, "'none': not known"),
    ],
)
def test_a_ticket_that_a_method_cannot_make_is_refused_before_any_work(
    channels: ModuleType, blocks: ModuleType, changes: dict[str, Any], message: str
) -> None:
    wrong = replace(rule("toy_search"), **changes)
    with pytest.raises(RecipeError, match=message) as caught:
        check_prune(wrong)
    assert "\n" not in str(caught.value)


def test_a_changed_kind_is_not_used_for_a_trial_of_the_old_one(channels: ModuleType) -> None:
    with pytest.raises(PluginError, match="planned with the source"):
        prune(rule("toy_kind", method="random", kind_source="0" * 64), inputs())


def test_a_search_yields_tickets_of_several_sizes_with_their_scores(
    searching: TrainSpec, blocks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = RecordingSink()
    sizes = {f"k{kept}": rule("toy_search", sparsity=1 - kept / 4, run="r") for kept in (1, 2, 3)}
    outcome = run(searching, inputs(), sink, prunes=sizes)
    assert [sink.tickets[key].kept for key in sizes] == [1, 2, 3]
    scores = sink.tickets["k1"].scores["blocks"]
    assert len(set(scores.tolist())) == 4
    assert sink.tickets["k1"].arrays["blocks"][scores.argmax()]
    assert sink.tickets["k3"].top_k(1).arrays["blocks"].tolist() == (
        sink.tickets["k1"].arrays["blocks"].tolist()
    )

    stored = StoredTicket.from_arrays(
        sink.tickets["k2"].arrays,
        architecture="uniter",
        model_sha256="0" * 64,
        pool="encoder",
        kind="toy_search",
        scores=sink.tickets["k2"].scores,
    )
    read = parquet.decode_ticket(parquet.encode_ticket(stored), stored.sha256, where="memory")
    assert read == stored
    ticket = Ticket(read.arrays(), read.kind, read.scores())
    applied = run(under(), inputs(ticket=ticket), RecordingSink())
    assert applied.checks["pruned_nonzero"] == 0
    assert outcome.costs["parameters"] > applied.costs["parameters"]
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "_skip", lambda block, run: run)
        with pytest.raises(InvariantError, match="ran a block that is skipped"):
            run(under(), inputs(ticket=ticket), RecordingSink())


def test_a_search_is_repeated_and_resumed_bit_for_bit(searching: TrainSpec) -> None:
    prunes = {"k": rule("toy_search", run="r")}
    first, second, interrupted = RecordingSink(), RecordingSink(), RecordingSink(interrupt_at=2)
    complete = run(searching, inputs(), first, prunes=prunes)
    with pytest.raises(KeyboardInterrupt):
        run(searching, inputs(), interrupted, prunes=prunes)
    given = inputs(checkpoint=interrupted.checkpoints[-1])
    assert run(searching, given, second, prunes=prunes) == complete
    scores = [sink.tickets["k"].scores["blocks"].tolist() for sink in (first, second)]
    assert scores[0] == scores[1]
    search = replace(searching.search, options=(("penalty", 5.0),))  # type: ignore[type-var]
    other = run(replace(searching, search=search), inputs(), RecordingSink(), prunes=prunes)
    assert other.checks["final_sha256"] != complete.checks["final_sha256"]
    assert other.checks["theta_sha256"] == complete.checks["theta_sha256"]


def test_what_a_search_cannot_give_is_refused(searching: TrainSpec) -> None:
    prunes = {"k": rule("toy_search", run="r")}
    with pytest.raises(RecipeError, match="does not search"):
        run(spec(), inputs(), RecordingSink(), prunes=prunes)
    with pytest.raises(RecipeError, match="no rewind points"):
        run(searching, inputs(), RecordingSink(), rewinds=[3])


def test_a_kind_may_change_the_batches_of_training_and_evaluation() -> None:
    text = DROP_REGIONS.replace("(REGIONS,)", f"({REGIONS},)")
    for _ in installed(UserModule("drop_regions", text)):
        random = rule("drop_regions", method="random")
        ticket = prune(random, inputs())
        outcome = run(under(), inputs(ticket=ticket), RecordingSink())
        assert outcome.checks["pruned_nonzero"] == 0
        every = Ticket({"regions": np.ones(REGIONS, bool)}, "drop_regions")
        dense = run(spec(), inputs(), RecordingSink())
        assert run(under(), inputs(ticket=every), RecordingSink()) == dense
        assert outcome.scores != dense.scores or outcome.history != dense.history


def test_choosing_by_scores_keeps_the_largest_and_ties_go_to_the_first() -> None:
    arrays = {"a": np.ones((2, 2), bool), "b": np.ones(3, bool)}
    scores = {
        "a": np.array([[0.5, -1.0], [2.0, 0.5]], np.float32),
        "b": np.array([0.5, 3.0, -2.0], np.float32),
    }
    chosen = Ticket(arrays, "blocks", scores).top_k(3)
    assert chosen.arrays["a"].tolist() == [[True, False], [True, False]]
    assert chosen.arrays["b"].tolist() == [False, True, False]
    with pytest.raises(TicketMismatch, match="no scores"):
        Ticket(arrays).top_k(3)
    with pytest.raises(TicketMismatch, match="of 7"):
        chosen.top_k(8)
    with pytest.raises(InvariantError, match="NaN"):
        Ticket({"a": arrays["b"]}, "x", {"a": np.full(3, np.nan, np.float32)}).top_k(1)


def test_the_kind_weights_masks_any_module() -> None:
    from trainables.pruning.magnitude import prune_tensors
    from trainables.tickets import weights

    net = torch.nn.Conv2d(2, 3, 2)
    masks = prune_tensors({"weight": net.weight}, 0.5)
    with weights.applied(net, masks) as applied:
        net(torch.ones(1, 2, 4, 4)).sum().backward()
        assert int((net.weight.grad != 0).sum()) == 12
        assert applied.transform is None
    size = weights.budget(net, masks)
    assert (size.kept, size.total, size.parameters) == (12, 24, 15)
