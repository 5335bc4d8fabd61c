"""Asking a way to cut for a ticket: of weights that are here, or of stretches that many hold."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.distributed.collectives import Peers, Stretch
from trainables.errors import CheckpointError
from trainables.pruning import CUTS
from trainables.spec import CutSpec
from trainables.tickets.weights import Masks


def choose(
    spec: CutSpec,
    names: Sequence[str],
    weights: Mapping[str, Tensor],
    worn: Masks | None,
    like: Masks | None = None,
) -> dict[str, NDArray[np.bool_]]:
    """The ticket over the backbone's tensors `names`, its pool, of `weights` (`backbone.*`).

    Raises CheckpointError if a tensor is missing, and what the method raises.
    """
    missing = [name for name in names if f"backbone.{name}" not in weights]
    if missing:
        raise CheckpointError(
            f"cut: the start weights have no {missing[0]}, which the pool {spec.pool!r} of this "
            "model holds; start from weights of this model"
        )
    pool = {name: weights[f"backbone.{name}"] for name in names}
    method = importlib.import_module(CUTS[spec.method])
    masks: dict[str, NDArray[np.bool_]] = method.cut(spec, pool, worn, like)
    return masks


def choose_among(
    spec: CutSpec,
    names: Sequence[str],
    held: Mapping[str, Stretch],
    whole: Mapping[str, Tensor],
    worn: Masks | None,
    peers: Peers,
) -> dict[str, NDArray[np.bool_]]:
    """The same ticket where each process `held` stretches of the weights; at the first process,
    which has them `whole` too, and empty elsewhere."""
    method = importlib.import_module(CUTS[spec.method])
    if not hasattr(method, "cut_stretches"):
        return choose(spec, names, whole, worn) if peers.first else {}
    pool = {name: held[f"backbone.{name}"] for name in names}
    kept = method.cut_stretches(
        spec,
        {name: each.values for name, each in pool.items()},
        None if worn is None else {n: pool[n].of(mask) for n, mask in worn.items() if n in pool},
        peers,
    )
    masks = peers.assembled(
        {n: Stretch(e.start, torch.from_numpy(kept[n]).view(torch.uint8)) for n, e in pool.items()},
        {name: whole[f"backbone.{name}"].shape for name in names} if peers.first else {},
    )
    return {name: mask.numpy().view(np.bool_) for name, mask in masks.items()}
