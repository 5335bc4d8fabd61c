from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trainables.distributed.collectives import Shard
from trainables.errors import TicketMismatch
from trainables.tickets.weights import applied, kept_sha256, pruned_nonzero

MASK = np.array([[True, False, True], [False, True, True]])


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_applied_masks_zero_weights_and_gradients_until_the_context_exits() -> None:
    net = layer()
    with applied(net, {"weight": MASK}):
        assert np.array_equal(net.weight.detach().numpy() != 0, MASK)
        net(torch.ones(1, 3)).sum().backward()
        assert net.weight.grad is not None
        assert np.array_equal(net.weight.grad.numpy() != 0, MASK)
    net.zero_grad()
    net(torch.ones(1, 3)).sum().backward()
    assert bool((net.weight.grad != 0).all())


def test_a_frozen_weight_is_masked_too() -> None:
    net = layer()
    net.weight.requires_grad_(False)
    with applied(net, {"weight": MASK}) as ticket:
        net(torch.ones(1, 3)).sum().backward()
        shards = {"weight": Shard(0, net.weight.view(-1))}
        assert ticket.violations(shards, shards) == 0
    assert np.array_equal(net.weight.numpy() != 0, MASK)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"wieght": MASK}, "no 'wieght'"),
        ({"weight": MASK.T}, "the model's is"),
        ({"weight": MASK.astype(np.uint8)}, "uint8"),
    ],
)
def test_tickets_that_do_not_fit_are_refused_before_anything_is_zeroed(
    masks: dict[str, np.ndarray], message: str
) -> None:
    net = layer()
    before = net.weight.detach().clone()
    with pytest.raises(TicketMismatch, match=message), applied(net, masks):
        pass
    assert torch.equal(net.weight, before)


def test_pruned_nonzero_counts_nan_but_not_minus_zero() -> None:
    weight = torch.tensor([[5.0, -0.0, 5.0], [float("nan"), 5.0, 5.0]])
    assert pruned_nonzero({"weight": weight}, {"weight": MASK}) == 1
    assert pruned_nonzero({"weight": torch.ones(2, 3)}, {"weight": MASK}) == 2


def test_the_hash_covers_kept_weights_names_and_shapes_only() -> None:
    weight = torch.arange(6.0).view(2, 3)
    masks = {"weight": MASK}
    base = kept_sha256({"weight": weight}, masks)
    pruned = torch.where(torch.from_numpy(MASK), weight, torch.tensor(-0.0))
    assert kept_sha256({"weight": pruned}, masks) == base
    assert kept_sha256({"weight": pruned}, {}) == kept_sha256({"weight": pruned + 0.0}, {})
    assert kept_sha256({"other": weight}, {"other": MASK}) != base
    assert kept_sha256({"weight": weight.view(3, 2)}, {}) != kept_sha256({"weight": weight}, {})
    moved = weight.clone()
    moved[0, 0] = torch.nextafter(moved[0, 0], torch.tensor(1.0))
    assert kept_sha256({"weight": moved}, masks) != base
