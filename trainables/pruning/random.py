"""Keep weights at random: the control every ticket is compared with (VLT Table 1, row 5).

Global: every weight has the same chance. By layer: the same share of each tensor, or, where a
ticket to be like is given, that ticket's own count in each tensor.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from trainables.errors import TicketMismatch
from trainables.pruning import kept_count
from trainables.pruning.selection import keep_largest
from trainables.spec import CutSpec
from trainables.tickets.weight_mask import Masks, Weights, check_fit
from trainables.training.seeds import stream


def cut(
    spec: CutSpec, weights: Weights, worn: Masks | None, like: Masks | None
) -> dict[str, NDArray[np.bool_]]:
    """The ticket of the largest random keys; only names and shapes of `weights` are read.

    Each tensor has a stream of its own, so a draw does not depend on the tensors around it.
    Raises TicketMismatch if `like` covers other tensors.
    """
    keys = {
        name: partial(_keys, tuple(weight.shape), spec.seed, name)
        for name, weight in weights.items()
    }
    if like is None and spec.scope == "global":
        total = sum(weight.numel() for weight in weights.values())
        return keep_largest(keys, kept_count(total, spec.sparsity))
    if like is None:
        counts = {n: kept_count(w.numel(), spec.sparsity) for n, w in weights.items()}
    else:
        check_fit(like, weights)
        if like.keys() != weights.keys():
            raise TicketMismatch(
                f"cut: the ticket to be like covers {len(like)} tensors, the pool {spec.pool!r} "
                f"has {len(weights)}; use a ticket of the same model and pool"
            )
        counts = {name: int(np.count_nonzero(like[name])) for name in weights}
    masks: dict[str, NDArray[np.bool_]] = {}
    for name, kept in counts.items():
        masks |= keep_largest({name: keys[name]}, kept)
    return masks


def _keys(shape: tuple[int, ...], seed: int, name: str) -> NDArray[np.int32]:
    """Uniform 31-bit keys: a tie at the threshold favours one weight by its index at most."""
    size = int(np.prod(shape))
    raw = stream(seed, "cut", name).random_raw((size + 1) // 2)
    # Read as little-endian halves, so that every machine draws the same.
    halves = raw.astype("<u8").view("<u4")[:size]
    return (halves >> 1).astype(np.int32).reshape(shape)
