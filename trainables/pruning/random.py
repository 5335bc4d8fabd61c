"""Keep units at random: the control for every ticket of every kind (VLT Table 1, row 5).

With the scope `global` every unit has the same probability. With `layer` the same share of each
tensor is kept. With a reference ticket, that ticket's count in each tensor is kept.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from numpy.typing import NDArray

from trainables.pruning import kept_count
from trainables.pruning.selection import keep_largest
from trainables.seeds import stream
from trainables.spec import PruneSpec
from trainables.tickets.base import Masks, Space, check_covers


def prune(
    spec: PruneSpec, space: Space, ticket: Masks | None, reference: Masks | None
) -> dict[str, NDArray[np.bool_]]:
    """Return the ticket of the largest random sort keys.

    Each tensor has its own random stream, so a draw does not depend on the other tensors. Each
    scope does too; otherwise a global and a layer-matched control of one seed would be nearly the
    same ticket. If a `ticket` is applied, the result is a subset of it. Raises TicketMismatch if
    `ticket` or `reference` covers other tensors.
    """
    for given in (ticket, reference):
        if given is not None:
            check_covers(given, space, spec.pool)
    keys = {
        name: partial(_keys, spec, name, shape, None if ticket is None else ticket[name])
        for name, shape in space.items()
    }
    sizes = {name: math.prod(shape) for name, shape in space.items()}
    if reference is None and spec.scope == "global":
        return keep_largest(keys, kept_count(sum(sizes.values()), spec.sparsity))
    if reference is None:
        counts = {name: kept_count(size, spec.sparsity) for name, size in sizes.items()}
    else:
        counts = {name: int(np.count_nonzero(reference[name])) for name in space}
    masks: dict[str, NDArray[np.bool_]] = {}
    for name, count in counts.items():
        masks |= keep_largest({name: keys[name]}, count)
    return masks


def _keys(
    spec: PruneSpec, name: str, shape: tuple[int, ...], mask: NDArray[np.bool_] | None
) -> NDArray[np.int32]:
    """Return uniform 31-bit sort keys, and -1 outside the applied ticket. A tie at the threshold is
    rare, and then the unit with the lower index is kept."""
    size = int(np.prod(shape))
    # The word "cut" is part of the seed: another one would change every random ticket.
    raw = stream(spec.seed, "cut", spec.scope, name).random_raw((size + 1) // 2)
    # Reading little-endian halves makes the draw the same on every machine.
    halves = raw.astype("<u8").view("<u4")[:size]
    keys = (halves >> 1).astype(np.int32).reshape(shape)
    return keys if mask is None else np.where(mask, keys, np.int32(-1))
