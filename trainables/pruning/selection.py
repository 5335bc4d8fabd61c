"""Keeping exactly the k largest of many keys without sorting them.

Keys are 31-bit integers. Two histograms, of the upper 15 bits and then of the lower 16 bits within
one bucket, find the k-th largest key exactly; among keys equal to it the earliest are kept. That is
two passes over the data and 0.75 MB of counts. The counts of parts of a tensor add up, so processes
that hold stretches of the tensors add up theirs; a third pass then tells each how many ties come
before its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from trainables.distributed.collectives import ALONE, Peers
from trainables.errors import TicketMismatch
from trainables.tickets.weights import Masks, Weights, check_fit

Keys: TypeAlias = Mapping[str, Callable[[], NDArray[np.int32]]]
"""Tensor name -> a function that gives its keys, so that only one tensor's are held at a time.
A key below 0 is never kept."""
_HIGH, _LOW = 1 << 15, 1 << 16


def keep_largest(keys: Keys, kept: int, peers: Peers = ALONE) -> dict[str, NDArray[np.bool_]]:
    """Masks that are True at the `kept` largest keys; ties go to the earlier tensor and index.

    Where `keys` are this process's stretches of the tensors, `kept` counts over all `peers`, and
    the masks are its stretches of the one ticket. Raises TicketMismatch if fewer than `kept` keys
    are at or above 0.
    """
    threshold, ties = _threshold(keys, kept, peers)
    before = _ties_before(keys, threshold, peers)
    masks = {}
    met = 0
    for name, of in keys.items():
        values = of()
        mask = values > threshold
        left = ties - before.get(name, met)
        if left > 0:
            tied = np.flatnonzero(values == threshold)
            mask.flat[tied[:left]] = True
            met += len(tied)
        masks[name] = mask
    return masks


def _threshold(keys: Keys, kept: int, peers: Peers) -> tuple[int, int]:
    """The kept-th largest key, and how many keys equal to it are kept."""
    if kept == 0:
        return np.iinfo(np.int32).max, 0
    counts = np.zeros(_HIGH, np.int64)
    for of in keys.values():
        counts += _histogram(of() >> 16, _HIGH)
    counts = peers.total(counts)
    if counts.sum() < kept:
        raise TicketMismatch(
            f"cut: {kept} weights are to be kept but only {counts.sum()} may be; "
            "ask for a higher sparsity than the worn ticket has"
        )
    high, wanted = _bucket(counts, kept)
    counts = np.zeros(_LOW, np.int64)
    for of in keys.values():
        values = of()
        counts += _histogram(values[values >> 16 == high] & 0xFFFF, _LOW)
    low, ties = _bucket(peers.total(counts), wanted)
    return high << 16 | low, ties


def _ties_before(keys: Keys, threshold: int, peers: Peers) -> dict[str, int]:
    """Of each tensor: keys equal to the threshold in earlier tensors, and in it at earlier ranks.
    Empty for one process, which meets them in this order."""
    if peers.count == 1:
        return {}
    own = np.array([np.count_nonzero(of() == threshold) for of in keys.values()], np.int64)
    counts = peers.listed(own).T  # (tensors, ranks)
    before = np.cumsum(counts).reshape(counts.shape) - counts
    return dict(zip(keys, before[:, peers.rank].tolist(), strict=True))


def _histogram(values: NDArray[np.int32], bins: int) -> NDArray[np.int64]:
    """Counts of 0 .. bins - 1; anything below 0 is left out."""
    return np.bincount(values.ravel() + np.int32(1), minlength=bins + 1)[1:]


def _bucket(counts: NDArray[np.int64], wanted: int) -> tuple[int, int]:
    """The bin that holds the wanted-th largest, and how many of that bin are wanted."""
    from_top = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_top, wanted))
    above = int(from_top[place - 1]) if place else 0
    return len(counts) - 1 - place, wanted - above


def check_covers(ticket: Masks, weights: Weights, pool: str) -> None:
    """TicketMismatch unless the ticket covers the pool's tensors and no other."""
    check_fit(ticket, weights)
    if ticket.keys() != weights.keys():
        raise TicketMismatch(
            f"cut: the ticket covers {len(ticket)} tensors, the pool {pool!r} has {len(weights)}; "
            "use a ticket of the same model and pool"
        )
