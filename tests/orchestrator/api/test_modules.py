"""Pruning modules that the package does not know, and training them under a ticket."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orchestrator import apply, prune
from orchestrator.errors import InputError
from trainables.errors import TicketMismatch, TrainableError


def conv_net() -> nn.Sequential:
    """A small network of convolutions, batch normalization and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    torch.manual_seed(1)
    loss = net(torch.randn(8, 3, 9, 9)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def pruned(net: nn.Module, masks: dict[str, Tensor]) -> Tensor:
    """Return the values of all pruned weights."""
    weights = dict(net.named_parameters())
    return torch.cat([weights[name][~mask] for name, mask in masks.items()])


class Two(nn.Module):
    """Two tensors whose cuts are computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[3.0, -1.0], [0.5, 2.0]]))
        self.b = nn.Parameter(torch.tensor([[-4.0, 1.0], [0.25, -0.125]]))
        self.bias = nn.Parameter(torch.tensor([0.0, 0.0]))


def kept(masks: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: mask.int().flatten().tolist() for name, mask in masks.items()}


def test_the_largest_weights_are_kept() -> None:
    net = Two()
    # By magnitude: b 4, a 3, a 2, a -1 before b 1 (equal, but first), a .5, b .25, b .125.
    assert kept(prune(net, 0.5)) == {"a": [1, 1, 0, 1], "b": [1, 0, 0, 0]}
    assert kept(prune(net, 0.5, scope="layer")) == {"a": [1, 0, 0, 1], "b": [1, 1, 0, 0]}
    assert kept(prune(net, 0.25, ["a"])) == {"a": [1, 1, 0, 1]}
    assert kept(prune(net, 0.5, lambda name, _: name == "b")) == {"b": [1, 1, 0, 0]}
    before = {"a": torch.tensor([[False, True], [True, True]]), "b": torch.ones(2, 2).bool()}
    assert kept(prune(net, 0.75, ticket=before)) == {"a": [0, 0, 0, 1], "b": [1, 0, 0, 0]}
    assert net.a[1, 0] == 0.5, "the model is not changed"


def test_all_weight_matrices_and_kernels_of_a_network_are_pruned_together() -> None:
    net = conv_net()
    masks = prune(net, 0.8)
    assert {name: mask.shape for name, mask in masks.items()} == {
        name: weight.shape for name, weight in net.named_parameters() if weight.ndim >= 2
    }
    assert all(mask.dtype is torch.bool for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == total - round(0.8 * total)
    weights = dict(net.named_parameters())
    smallest_kept = min(weights[n][m].abs().min().item() for n, m in masks.items() if m.any())
    assert pruned(net, masks).abs().max() <= smallest_kept


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("begun_before", [False, True])
def test_pruned_weights_stay_zero_while_the_others_train(name: str, begun_before: bool) -> None:
    net = conv_net()
    optimizer = OPTIMIZERS[name](list(net.parameters()))
    if begun_before:  # the optimizer has momentum for every weight
        step(net, optimizer)
    masks = prune(net, 0.5)
    start = {key: value.clone() for key, value in net.state_dict().items()}
    with apply(net, masks):
        for _ in range(3):
            step(net, optimizer)
            assert torch.equal(pruned(net, masks), torch.zeros_like(pruned(net, masks)))
    for key, mask in masks.items():
        assert not torch.equal(net.state_dict()[key][mask], start[key][mask])
    step(net, optimizer)
    assert pruned(net, masks).any(), "without the ticket, pruned weights train again"


def test_a_masked_gradient_counts_in_no_norm() -> None:
    net = conv_net()
    masks = prune(net, 0.5)
    handle = apply(net, masks)
    net(torch.randn(2, 3, 9, 9)).sum().backward()
    gradients = {name: weight.grad for name, weight in net.named_parameters()}
    for name, mask in masks.items():
        gradient = gradients[name]
        assert gradient is not None
        assert not gradient[~mask].any()
        assert gradient[mask].any()
    handle.remove()
    handle.remove()  # a second time does nothing


def test_masks_are_found_below_a_prefix() -> None:
    net = nn.ModuleDict({"bert": conv_net(), "head": nn.Linear(2, 2)})
    masks = {"body.0.weight": np.zeros((4, 3, 3, 3), bool)}
    with apply(net, masks, prefixes={"": "head.", "body.": "bert."}):
        assert not net["bert"].get_parameter("0.weight").any()
        assert net["head"].get_parameter("weight").all()


def test_a_shared_weight_may_have_either_name() -> None:
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    net["b"].weight = net["a"].weight
    zeros = torch.zeros(2, 2).bool()
    with apply(net, {"b.weight": zeros}):
        assert not net["a"].get_parameter("weight").any()
    with pytest.raises(InputError, match="the masks of two tensors"):
        apply(net, {"a.weight": zeros, "b.weight": zeros})


def test_what_does_not_fit_is_refused_and_nothing_is_changed() -> None:
    net = conv_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ones = torch.ones(4, 3, 3, 3)
    for masks in ({"0.weigth": ones.bool()}, {"0.weight": ones[0].bool()}, {"0.weight": ones}):
        with pytest.raises(TicketMismatch, match="ticket"):
            apply(net, masks)
    with pytest.raises(InputError, match="did you mean"):
        prune(net, 0.5, ["0.weigth"])
    with pytest.raises(InputError, match="holds no parameter"):
        prune(net, 0.5, lambda name, weight: False)
    with pytest.raises(TrainableError, match="sparsity"):
        prune(net, 1.5)
    with pytest.raises(InputError, match="'rows' is not known; use `global` or `layer`"):
        prune(net, 0.5, scope="rows")  # type: ignore[arg-type]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
