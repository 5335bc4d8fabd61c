"""The contract of ticket kinds."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import torch

from trainables.errors import TicketMismatch
from trainables.models import MODELS
from trainables.pruning.choose import prune_alone
from trainables.spec import ModelSpec, PruneSpec
from trainables.testing.inputs import build_backbone, random_batch
from trainables.tickets import TICKET_KINDS
from trainables.tickets.base import Masks, kind_module, shapes_of


def check_ticket_kind_contract(name: str, model: ModelSpec) -> None:
    """Check a kind of `TICKET_KINDS` with a small model.

    The space needs no weights, and a random ticket has its names and shapes. Under a ticket that
    keeps everything, the network computes what it computes without one; under another ticket,
    something else. Leaving the context undoes hooks, but not zeroed weights. A ticket of another
    model is refused.
    """
    assert TICKET_KINDS[name].units, "`units` is empty"
    kind = kind_module(name)
    pool = MODELS[model.architecture].pool
    with torch.device("meta"):
        space = kind.space(
            import_module(MODELS[model.architecture].module).build(model, dropout=0.0), pool
        )
    assert space, "the space has no units"
    backbone = build_backbone(model).eval()
    assert kind.space(backbone, pool) == space, "the space depends on the weights"
    total = sum(int(np.prod(shape)) for shape in space.values())
    spec = PruneSpec(model=model, method="random", sparsity=0.5, pool=pool)
    half = prune_alone(spec, space, (), {}, None).arrays
    every: Masks = {key: np.ones(shape, np.bool_) for key, shape in space.items()}

    batch = random_batch(backbone)
    with torch.no_grad():
        plain = backbone(batch)
        outputs = {}
        for label, arrays in (("every", every), ("half", half)):
            budget = kind.budget(backbone, arrays)
            assert budget.total == total, f"budget: {budget.total} units, the space has {total}"
            assert budget.kept == sum(int(array.sum()) for array in arrays.values())
            shapes = shapes_of(dict(backbone.named_parameters()))
            assert all(
                mask.shape == shapes[key] for key, mask in kind.weight_masks(shapes, arrays).items()
            )
            with kind.applied(backbone, arrays) as applied:
                seen = batch if applied.transform is None else applied.transform(batch)
                outputs[label] = backbone(seen)
            backbone = build_backbone(model).eval()
    assert torch.equal(outputs["every"].pooled, plain.pooled), (
        "a ticket that keeps everything changes the output"
    )
    assert not torch.equal(outputs["half"].pooled, plain.pooled), (
        "a ticket that keeps half of the units changes nothing"
    )
    wrong: Masks = {**half, "no such unit": np.ones(1, np.bool_)}
    try:
        with kind.applied(backbone, wrong):
            pass
    except TicketMismatch:
        return
    raise AssertionError("a ticket with a unit that the model does not have is applied")
