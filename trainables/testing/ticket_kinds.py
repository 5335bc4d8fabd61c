"""The contract of ticket kinds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from trainables.distributed.collectives import Shard
from trainables.errors import TicketMismatch
from trainables.models import MODELS
from trainables.models.base import Backbone
from trainables.pruning.choose import prune_alone
from trainables.spec import ModelSpec, PruneSpec
from trainables.testing.inputs import random_batch
from trainables.tickets import TICKET_KINDS
from trainables.tickets.base import Masks, TicketModule, kind_module, shapes_of
from trainables.training.start import init_backbone


def check_ticket_kind_contract(name: str, model: ModelSpec) -> None:
    """Check a kind of `TICKET_KINDS` with a small model.

    The space needs no weights, and a random ticket has its names and shapes. Under a ticket that
    keeps everything, the network computes what it computes without one; under another ticket,
    something else. The weights that become zero are those of `weight_masks`, and `violations` finds
    them where they are not zero. Leaving the context undoes everything but zeroed weights. A ticket
    of another model is refused.
    """
    assert TICKET_KINDS[name].units, "`units` is empty"
    kind = kind_module(name)
    pool = MODELS[model.architecture].pool
    with torch.device("meta"):
        space = kind.space(init_backbone(model, 0, 0.0), pool)
    assert space, "the space has no units"
    backbone = init_backbone(model, 0, 0.0).eval()
    assert kind.space(backbone, pool) == space, "the space depends on the weights"
    total = sum(int(np.prod(shape)) for shape in space.values())
    spec = PruneSpec(model=model, method="random", sparsity=0.5, pool=pool)
    half = prune_alone(spec, space, (), {}, None).arrays
    every: Masks = {key: np.ones(shape, np.bool_) for key, shape in space.items()}

    plain = _output(backbone, random_batch(backbone))
    outputs = {}
    for label, arrays in (("every", every), ("half", half)):
        budget = kind.budget(backbone, arrays)
        assert budget.total == total, f"budget: {budget.total} units, the space has {total}"
        assert budget.kept == sum(int(array.sum()) for array in arrays.values())
        outputs[label] = _check_applied(kind, backbone, arrays)
    assert torch.equal(outputs["every"], plain), "a ticket that keeps everything changes the output"
    assert not torch.equal(outputs["half"], plain), (
        "a ticket that keeps half of the units changes nothing"
    )
    wrong: Masks = {**half, "no such unit": np.ones(1, np.bool_)}
    try:
        with kind.applied(backbone, wrong):
            pass
    except TicketMismatch:
        return
    raise AssertionError("a ticket with a unit that the model does not have is applied")


def _check_applied(kind: TicketModule, backbone: Backbone, arrays: Masks) -> Tensor:
    """Return the output under a ticket; leave the backbone as it was."""
    batch = random_batch(backbone)
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    dense = [_output(backbone, batch), *_gradients(backbone)]
    masks = kind.weight_masks(shapes_of(dict(backbone.named_parameters())), arrays)
    with kind.applied(backbone, arrays) as applied:
        _check_zeros(backbone, state, masks)
        output = _output(backbone, batch if applied.transform is None else applied.transform(batch))
        _check_zeros(backbone, state, masks)
        shards = _shards(backbone)
        off = applied.violations(shards, shards)
        assert off == 0, f"`violations` reports {off} units of a network under its ticket"
        if any(not mask.all() for mask in masks.values()):
            ones = {key: Shard(0, torch.ones_like(each.values)) for key, each in shards.items()}
            assert applied.violations(ones, ones) > 0, (
                "`violations` reports no weight of `weight_masks` that is not zero"
            )
    assert backbone.state_dict().keys() == state.keys(), (
        "parameters or buffers that the ticket has added remain after the context"
    )
    backbone.load_state_dict(state)
    assert all(map(torch.equal, [_output(backbone, batch), *_gradients(backbone)], dense)), (
        "a network with its old weights differs after the context: undo what `applied` has changed"
    )
    return output


def _check_zeros(backbone: nn.Module, state: dict[str, Tensor], masks: Masks) -> None:
    """Compare the weights that have become zero since `state` with the masks."""
    for name, weight in backbone.named_parameters():
        zeroed = (weight == 0) & (state[name] != 0)
        pruned = ~torch.from_numpy(masks[name]) if name in masks else torch.tensor(False)
        assert torch.equal(zeroed, pruned & (state[name] != 0)), (
            f"`weight_masks` has other weights of {name} than those that the ticket sets to zero"
        )


def _output(backbone: Backbone, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the pooled output, after a backward pass from it."""
    backbone.zero_grad()
    pooled: Tensor = backbone(batch).pooled
    pooled.square().sum().backward()  # type: ignore[no-untyped-call]
    return pooled.detach()


def _gradients(backbone: nn.Module) -> list[Tensor]:
    return [w.grad.clone() for w in backbone.parameters() if w.grad is not None]


def _shards(backbone: nn.Module) -> dict[str, Shard]:
    """Return the weights of a process alone: one shard of each, all of it."""
    return {
        name: Shard(0, weight.detach().flatten().clone())
        for name, weight in backbone.named_parameters()
    }
