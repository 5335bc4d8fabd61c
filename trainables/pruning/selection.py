"""Exact selection of the k largest of many sort keys without sorting.

A sort key is a 31-bit integer that ranks one weight (it is not the key of a trial). Two histograms,
of the upper 15 bits and then of the lower 16 bits within one bucket, find the k-th largest key
exactly; of the keys equal to it, the earliest are kept. That takes two passes over the data and
0.75 MB of counts. Processes that hold shards of the tensors add up their counts; in a third pass
each finds out how many ties come before its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from trainables.distributed.collectives import SINGLE_PROCESS, Peers
from trainables.errors import TicketMismatch

Keys: TypeAlias = Mapping[str, Callable[[], NDArray[np.int32]]]
"""Tensor name -> a function that returns the tensor's keys, so that only one tensor's keys are in
memory at a time. A key below 0 is never kept."""
_HIGH, _LOW = 1 << 15, 1 << 16


def keep_largest(
    keys: Keys, count: int, peers: Peers = SINGLE_PROCESS
) -> dict[str, NDArray[np.bool_]]:
    """Return masks that are True at the `count` largest keys. Ties go to the earlier tensor and
    index.

    If `keys` belong to this process's shards of the tensors, `count` is the total over all `peers`,
    and the masks are its shards of the ticket. Raises TicketMismatch if fewer than `count` keys are
    at or above 0.
    """
    threshold, ties = _threshold(keys, count, peers)
    before = _ties_before(keys, threshold, peers)
    masks = {}
    seen = 0
    for name, load in keys.items():
        values = load()
        mask = values > threshold
        remaining = ties - before.get(name, seen)
        if remaining > 0:
            tied = np.flatnonzero(values == threshold)
            mask.flat[tied[:remaining]] = True
            seen += len(tied)
        masks[name] = mask
    return masks


def _threshold(keys: Keys, count: int, peers: Peers) -> tuple[int, int]:
    """Return the count-th largest key, and how many keys equal to it are kept."""
    if count == 0:
        return np.iinfo(np.int32).max, 0
    counts = np.zeros(_HIGH, np.int64)
    for load in keys.values():
        counts += _histogram(load() >> 16, _HIGH)
    counts = peers.all_reduce(counts)
    if counts.sum() < count:
        raise TicketMismatch(
            f"prune: {count} weights are to be kept, but the applied ticket keeps {counts.sum()}; "
            "use a higher sparsity than the applied ticket has"
        )
    high, rank = _find_bucket(counts, count)
    counts = np.zeros(_LOW, np.int64)
    for load in keys.values():
        values = load()
        counts += _histogram(values[values >> 16 == high] & 0xFFFF, _LOW)
    low, ties = _find_bucket(peers.all_reduce(counts), rank)
    return high << 16 | low, ties


def _ties_before(keys: Keys, threshold: int, peers: Peers) -> dict[str, int]:
    """Count, per tensor, the keys equal to the threshold in earlier tensors, and in the tensor
    itself at earlier ranks. Return an empty mapping for one process, which sees them in this
    order."""
    if peers.world_size == 1:
        return {}
    local = np.array([np.count_nonzero(load() == threshold) for load in keys.values()], np.int64)
    counts = peers.all_gather(local).T  # (tensors, ranks)
    before = np.cumsum(counts).reshape(counts.shape) - counts
    return dict(zip(keys, before[:, peers.rank].tolist(), strict=True))


def _histogram(values: NDArray[np.int32], bins: int) -> NDArray[np.int64]:
    """Count the values 0 .. bins - 1, ignoring any below 0."""
    return np.bincount(values.ravel() + np.int32(1), minlength=bins + 1)[1:]


def _find_bucket(counts: NDArray[np.int64], rank: int) -> tuple[int, int]:
    """Return the bin of the rank-th largest value, and its rank within that bin."""
    from_top = np.cumsum(counts[::-1])
    bins_above = int(np.searchsorted(from_top, rank))
    values_above = int(from_top[bins_above - 1]) if bins_above else 0
    return len(counts) - 1 - bins_above, rank - values_above
