from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trainables.errors import TicketMismatch
from trainables.tickets.weights import kept_sha256, pruned_nonzero, wearing

KEPT = np.array([[True, False, True], [False, True, True]])


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_wearing_zeroes_weights_and_masks_gradients_until_it_ends() -> None:
    net = layer()
    with wearing(net, {"weight": KEPT}):
        assert np.array_equal(net.weight.detach().numpy() != 0, KEPT)
        net(torch.ones(1, 3)).sum().backward()
        assert net.weight.grad is not None
        assert np.array_equal(net.weight.grad.numpy() != 0, KEPT)
    net.zero_grad()
    net(torch.ones(1, 3)).sum().backward()
    assert bool((net.weight.grad != 0).all())


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"wieght": KEPT}, "no weight 'wieght'"),
        ({"weight": KEPT.T}, "shape"),
        ({"weight": KEPT.astype(np.uint8)}, "uint8"),
    ],
)
def test_tickets_that_do_not_fit_are_refused_before_anything_is_zeroed(
    masks: dict[str, np.ndarray], message: str
) -> None:
    net = layer()
    before = net.weight.detach().clone()
    with pytest.raises(TicketMismatch, match=message), wearing(net, masks):
        pass
    assert torch.equal(net.weight, before)


def test_pruned_nonzero_counts_nan_but_not_minus_zero() -> None:
    weight = torch.tensor([[5.0, -0.0, 5.0], [float("nan"), 5.0, 5.0]])
    assert pruned_nonzero({"weight": weight}, {"weight": KEPT}) == 1
    assert pruned_nonzero({"weight": torch.ones(2, 3)}, {"weight": KEPT}) == 2


def test_the_hash_sees_kept_weights_names_and_shapes_only() -> None:
    weight = torch.arange(6.0).view(2, 3)
    masks = {"weight": KEPT}
    base = kept_sha256({"weight": weight}, masks)
    pruned = torch.where(torch.from_numpy(KEPT), weight, torch.tensor(-0.0))
    assert kept_sha256({"weight": pruned}, masks) == base
    assert kept_sha256({"weight": pruned}, {}) == kept_sha256({"weight": pruned + 0.0}, {})
    assert kept_sha256({"other": weight}, {"other": KEPT}) != base
    assert kept_sha256({"weight": weight.view(3, 2)}, {}) != kept_sha256({"weight": weight}, {})
    moved = weight.clone()
    moved[0, 0] = torch.nextafter(moved[0, 0], torch.tensor(1.0))
    assert kept_sha256({"weight": moved}, masks) != base
