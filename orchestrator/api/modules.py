"""Pruning any `torch.nn.Module`: choosing its ticket, and training it under one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from orchestrator.api.tickets import StoredTicket
from orchestrator.errors import InputError, suggest
from trainables.pruning.magnitude import prune_tensors
from trainables.tickets import units
from trainables.tickets.weights import applied

AnyTicket: TypeAlias = StoredTicket | Mapping[str, Tensor] | Mapping[str, NDArray[np.bool_]]
"""A ticket of a store, or a boolean array per parameter, True where a weight is kept."""
AnyPool: TypeAlias = Iterable[str] | Callable[[str, Tensor], bool]
"""Names of parameters, or a function of name and parameter that returns whether it is among
them."""


class AppliedTicket:
    """The handle of `apply`: the ticket is applied until `remove`, or to the end of a `with`
    block."""

    def __init__(self, resources: ExitStack) -> None:
        self._resources = resources

    def remove(self) -> None:
        """Stop masking. The weights stay as they are, and may become nonzero from then on."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def apply(
    model: nn.Module,
    ticket: AnyTicket,
    *,
    prefixes: Mapping[str, str] = MappingProxyType({}),
) -> AppliedTicket:
    """Set the pruned weights of a model to zero, and keep them there while it trains.

    The gradients of pruned weights are masked, so they do not count in a clipped norm and start no
    momentum. After each step of a `torch.optim` optimizer they are set to zero again, so weight
    decay, momentum from before, and optimizers that mix the entries of a gradient (Muon) cannot
    move them. Each tensor takes two more bytes per weight.

    Not covered are changes outside a step of a `torch.optim.Optimizer`, such as `load_state_dict`
    or ZeRO engines with weights of their own, and copies of the model. Move the model to its device
    before.

    Example::

        masks = prune(model, 0.9)
        with apply(model, masks):
            train(model)

    Args:
        model: any module, on its device.
        ticket: masks by parameter name, or a ticket of a `TicketStore`.
        prefixes: how the names of masks begin -> how those parameters' names begin in `model`. The
            longest one that matches is replaced; `{"": "bert."}` puts `bert.` before every name.

    Raises:
        InputError: two masks have one parameter.
        trainables.errors.TicketMismatch: the model has no parameter of a mask's name and shape.
    """
    canonical = {id(weight): name for name, weight in model.named_parameters()}
    shared = dict(model.named_parameters(remove_duplicate=False))
    masks: dict[str, NDArray[np.bool_]] = {}
    for name, mask in _arrays(ticket).items():
        renamed = _renamed(name, prefixes)
        if renamed in shared:
            renamed = canonical[id(shared[renamed])]
        if renamed in masks:
            raise InputError(f"apply: {renamed} gets the masks of two tensors, {name} and another")
        masks[renamed] = mask
    with ExitStack() as stack:
        stack.enter_context(applied(model, masks))
        weights = [(shared[name], mask) for name, mask in masks.items()]
        pruned = [(weight, torch.tensor(~mask, device=weight.device)) for weight, mask in weights]
        stack.enter_context(register_optimizer_step_post_hook(_zero_after_step(pruned)))
        return AppliedTicket(stack.pop_all())


def prune(
    model: nn.Module,
    sparsity: float,
    pool: AnyPool | None = None,
    *,
    scope: Literal["global", "layer"] = "global",
    ticket: AnyTicket | None = None,
) -> dict[str, Tensor]:
    """Return the masks that keep the weights of largest magnitude; `model` is not changed.

    The selection is exact: of n weights, n - round(n * sparsity) are kept, and of equal magnitudes
    at the threshold those that come first. It is the cut of iterative magnitude pruning (Frankle &
    Carbin, 2019; "Playing Lottery Tickets with Vision and Language", Algorithm 1).

    Args:
        model: any module; its prunable weights are float32, float16 or bfloat16.
        sparsity: share of the pool's weights to prune, 0 to 1.
        pool: which parameters are pruned. Default: all with two dimensions or more, which leaves
            out biases and normalization layers.
        scope: `global` ranks all weights together, `layer` prunes the same share of each tensor.
        ticket: masks of the same parameters that are applied so far; the result is a subset.

    Returns:
        A boolean tensor per parameter, by name, of its shape and on the CPU; True = kept.

    Raises:
        InputError: `scope` is not known, or the pool names a parameter that the model does not
            have, or none at all.
        trainables.errors.TrainableError: `sparsity` or a weight's dtype is not allowed, a weight is
            not finite, or `ticket` does not fit.
    """
    if scope not in ("global", "layer"):
        raise InputError(f"scope = {scope!r} is not known; use `global` or `layer`")
    weights = _pool(model, pool)
    before = None if ticket is None else _arrays(ticket)
    masks = prune_tensors(weights, sparsity, scope=scope, ticket=before)
    return {name: torch.from_numpy(mask) for name, mask in masks.items()}


def _pool(model: nn.Module, pool: AnyPool | None) -> dict[str, Tensor]:
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    if pool is None:
        names = [name for name, weight in parameters.items() if weight.ndim >= 2]
    elif callable(pool):
        names = [name for name, weight in parameters.items() if pool(name, weight)]
    else:
        names = [pool] if isinstance(pool, str) else list(pool)
    for name in names:
        if name not in parameters:
            advice = suggest(name, parameters)
            raise InputError(f"pool: the model has no parameter {name!r}; {advice}")
    if not names:
        raise InputError("pool: it holds no parameter of the model; name some of them")
    return {name: parameters[name] for name in names}


def _arrays(ticket: AnyTicket) -> dict[str, NDArray[np.bool_]]:
    if isinstance(ticket, StoredTicket) and ticket.packed.kind != "weights":
        raise InputError(
            f"ticket {ticket.key[:12]}: it keeps {units(ticket.packed.kind)}, not weights; give a"
            " ticket of weights"
        )
    masks = ticket.masks() if isinstance(ticket, StoredTicket) else ticket
    return {
        name: mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
        for name, mask in masks.items()
    }


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    matching = [prefix for prefix in prefixes if name.startswith(prefix)]
    if not matching:
        return name
    longest = max(matching, key=len)
    return prefixes[longest] + name.removeprefix(longest)


def _zero_after_step(
    pruned: Sequence[tuple[Tensor, Tensor]],
) -> Callable[[Optimizer, Any, Any], None]:
    """Return a hook that sets the pruned weights among those of an optimizer to zero. `pruned` has
    pairs of a parameter and a mask that is True where it is pruned."""
    by_id = {id(weight): (weight, mask) for weight, mask in pruned}

    @torch.no_grad()
    def zero(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in by_id:
                    weight, mask = by_id[id(parameter)]
                    weight.masked_fill_(mask, 0.0)

    return zero
