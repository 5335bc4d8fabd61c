"""Keep weights at random: the control every ticket is compared with (VLT Table 1, row 5).

Global: every weight has the same chance. By layer: the same share of each tensor, or, where a
ticket to be like is given, that ticket's own count in each tensor.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from trainables.pruning import kept_count
from trainables.pruning.selection import check_covers, keep_largest
from trainables.seeds import stream
from trainables.spec import CutSpec
from trainables.tickets.weights import Masks, Weights


def cut(
    spec: CutSpec, weights: Weights, worn: Masks | None, like: Masks | None
) -> dict[str, NDArray[np.bool_]]:
    """The ticket of the largest random keys; only names and shapes of `weights` are read.

    Each tensor has a stream of its own, so a draw does not depend on the tensors around it, and so
    has each scope, or a global and a layer-matched control of one seed would be nearly one ticket.
    Inside a worn ticket the draw is a subset of it. Raises TicketMismatch if `worn` or `like`
    covers other tensors.
    """
    for ticket in (worn, like):
        if ticket is not None:
            check_covers(ticket, weights, spec.pool)
    keys = {
        name: partial(_keys, spec, name, tuple(weight.shape), None if worn is None else worn[name])
        for name, weight in weights.items()
    }
    if like is None and spec.scope == "global":
        total = sum(weight.numel() for weight in weights.values())
        return keep_largest(keys, kept_count(total, spec.sparsity))
    if like is None:
        counts = {n: kept_count(w.numel(), spec.sparsity) for n, w in weights.items()}
    else:
        counts = {name: int(np.count_nonzero(like[name])) for name in weights}
    masks: dict[str, NDArray[np.bool_]] = {}
    for name, kept in counts.items():
        masks |= keep_largest({name: keys[name]}, kept)
    return masks


def _keys(
    spec: CutSpec, name: str, shape: tuple[int, ...], worn: NDArray[np.bool_] | None
) -> NDArray[np.int32]:
    """Uniform 31-bit keys, -1 outside the worn ticket; a tie at the threshold favours one weight
    by its index at most."""
    size = int(np.prod(shape))
    raw = stream(spec.seed, "cut", spec.scope, name).random_raw((size + 1) // 2)
    # Read as little-endian halves, so that every machine draws the same.
    halves = raw.astype("<u8").view("<u4")[:size]
    keys = (halves >> 1).astype(np.int32).reshape(shape)
    return keys if worn is None else np.where(worn, keys, np.int32(-1))
