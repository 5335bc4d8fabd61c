"""Prepare a network for training: its compilation, its ticket, the search of a pruning method and
its engine, in this order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from trainables.distributed.process import Device
from trainables.models import MODELS
from trainables.pruning.choose import method_module
from trainables.seeds import derive
from trainables.spec import TrainSpec
from trainables.tickets.base import Applied, Ticket, kind_module
from trainables.training.adversary import TrainingObjective
from trainables.training.engine import Engine, compiling, start_engine
from trainables.training.network import Network

Wrap: TypeAlias = Callable[[TrainingObjective], TrainingObjective]
"""Makes the objective of a search from that of the task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A network that is ready to be trained."""

    engine: Engine
    applied: Applied
    """The network's ticket. Without one, nothing is off."""
    wrap: Wrap
    """Returns the objective itself for a run without a search."""
    added: dict[str, Tensor]
    """Start values of the parameters and buffers that the search has added, by the network's
    names, on the CPU."""


@contextmanager
def prepared(
    net: Network, spec: TrainSpec, ticket: Ticket | None, device: Device
) -> Iterator[Prepared]:
    """Prepare `net`, which holds the start weights and is on `device`, until the context exits."""
    own = set(net.state_dict())
    compiled = compiling(net) if spec.recipe.compile else nullcontext()
    groups = MODELS[spec.model.architecture].groups
    with compiled, _applied(net, ticket) as applied, _searching(net.backbone, spec) as wrap:
        net.to(device)  # what the search has added
        added = {
            name: value.detach().to("cpu", copy=True)
            for name, value in net.state_dict().items()
            if name not in own
        }
        with start_engine(net, spec.recipe, device, groups) as engine:
            yield Prepared(engine=engine, applied=applied, wrap=wrap, added=added)


@contextmanager
def _applied(net: Network, ticket: Ticket | None) -> Iterator[Applied]:
    """Put the network under the ticket, if there is one."""
    if ticket is None:
        yield Applied(violations=lambda local_weights, masters: 0)
        return
    with kind_module(ticket.kind).applied(net.backbone, ticket.arrays) as applied:
        if applied.transform is None:
            yield applied
            return
        transform = applied.transform
        hook = net.register_forward_pre_hook(lambda _, batch: (transform(batch[0]),))
        try:
            yield applied
        finally:
            hook.remove()


@contextmanager
def _searching(backbone: nn.Module, spec: TrainSpec) -> Iterator[Wrap]:
    """Enter the search of the run, if it has one."""
    if spec.search is None:
        yield _unchanged
        return
    torch.manual_seed(derive(spec.seeds.data, "search"))
    with method_module(spec.search.method).searching(backbone, spec) as wrap:
        yield wrap or _unchanged


def _unchanged(objective: TrainingObjective) -> TrainingObjective:
    return objective
