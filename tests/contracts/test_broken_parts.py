"""The contract suites for authors refuse parts that break a promise."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support import plugins
from trainables.optim import OPTIMIZERS, OptimizerEntry, sgd
from trainables.pruning import PRUNERS, PruneMethod, magnitude
from trainables.registry import Registry
from trainables.spec import ModelSpec, PruneSpec
from trainables.testing import (
    check_optimizer_contract,
    check_pruner_contract,
    check_ticket_kind_contract,
)
from trainables.tickets import TICKET_KINDS, TicketKind, weights
from trainables.tickets.base import Applied, Masks, Space

TINY = ModelSpec(architecture="uniter", size="tiny")
NAME = "broken"


@contextmanager
def registered(
    table: Registry[Any], entry: object, original: ModuleType, **changes: Any
) -> Iterator[None]:
    """Add a part whose module is that of a built-in one with `changes`."""
    module = ModuleType(NAME)
    vars(module).update({**vars(original), **changes})
    with pytest.MonkeyPatch.context() as patch, plugins.registered(table, NAME, entry):
        patch.setitem(sys.modules, NAME, module)
        yield


def _no_masks(shapes: Space, arrays: Masks) -> Masks:
    weights.weight_masks(shapes, arrays)
    return {}


@contextmanager
def _keeps_masking_gradients(net: nn.Module, arrays: Masks) -> Iterator[Applied]:
    with weights.applied(net, arrays) as applied:
        yield applied
    for name, weight in net.named_parameters():
        if name in arrays:
            mask = torch.from_numpy(arrays[name])
            weight.register_post_accumulate_grad_hook(partial(weights._mask_gradient, mask))


@contextmanager
def _keeps_zeroing_weights(net: nn.Module, arrays: Masks) -> Iterator[Applied]:
    def zero(*_: Any) -> None:
        with torch.no_grad():
            for name, array in arrays.items():
                net.get_parameter(name).mul_(torch.from_numpy(array))

    with weights.applied(net, arrays) as applied:
        net.register_forward_pre_hook(zero)
        yield applied


@contextmanager
def _adds_a_buffer(net: nn.Module, arrays: Masks) -> Iterator[Applied]:
    with weights.applied(net, arrays) as applied:
        net.register_buffer("passes", torch.zeros(()))
        yield applied


def _with_violations(count: int) -> Any:
    @contextmanager
    def applied(net: nn.Module, arrays: Masks) -> Iterator[Applied]:
        with weights.applied(net, arrays):
            yield Applied(violations=lambda *_: count)

    return applied


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_masks": _no_masks}, "`weight_masks` has other weights of encoder"),
        ({"applied": _keeps_masking_gradients}, "undo what `applied` has changed"),
        ({"applied": _keeps_zeroing_weights}, "undo what `applied` has changed"),
        ({"applied": _adds_a_buffer}, "parameters or buffers that the ticket has added remain"),
        ({"applied": _with_violations(3)}, "`violations` reports 3 units of a network under its"),
        ({"applied": _with_violations(0)}, "`violations` reports no weight of `weight_masks`"),
    ],
)
def test_a_ticket_kind(changes: dict[str, Any], message: str) -> None:
    entry = TicketKind(module=NAME, units="weights", violation="weights are not zero")
    part = registered(TICKET_KINDS, entry, weights, **changes)
    with part, pytest.raises(AssertionError, match=message):
        check_ticket_kind_contract(NAME, TINY)


def _keeps_nothing_in_layers(
    spec: PruneSpec, given: Mapping[str, Tensor], ticket: Masks | None, reference: Masks | None
) -> Masks:
    if spec.scope == "layer":
        return {name: np.zeros(tuple(each.shape), np.bool_) for name, each in given.items()}
    return magnitude.prune(spec, given, ticket, reference)


def test_a_pruning_method_without_the_scope_layer() -> None:
    entry = PruneMethod(module=NAME, needs="weights")
    part = registered(PRUNERS, entry, magnitude, prune=_keeps_nothing_in_layers)
    with part, pytest.raises(AssertionError, match=r"scope layer, sparsity 0\.0: keeps 0 of 4096"):
        check_pruner_contract(NAME)


def test_an_optimizer_whose_settings_have_no_rate() -> None:
    entry = OptimizerEntry(module=NAME, fields=OPTIMIZERS["sgd"].fields)
    part = registered(OPTIMIZERS, entry, sgd, settings=lambda recipe, lr, update: {"rate": lr})
    with part, pytest.raises(AssertionError, match="`settings` lacks `lr`"):
        check_optimizer_contract(NAME)
