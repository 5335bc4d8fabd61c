"""The ways to cut a ticket, by name. Nothing heavy is imported here: planning reads this too.

To add one, write `trainables/pruning/NAME.py` with

    cut(spec: CutSpec, weights, worn, like) -> dict[str, NDArray[bool]]

and add its line to `CUTS`. `weights` are the pool's float32 tensors in order of depth, `worn` the
ticket the weights were trained under and `like` the ticket whose layer counts to copy; either may
be None. The result has the names and shapes of `weights`, True where a weight is kept.

Of a run of several processes, each of which holds a stretch of every tensor, the first gathers the
weights and calls `cut`, unless the module also has

    cut_stretches(spec: CutSpec, weights, worn, peers: Peers) -> dict[str, NDArray[bool]]

which all then call with their stretches (n,) and which gives theirs of the ticket.
"""

from __future__ import annotations

CUTS: dict[str, str] = {
    "magnitude": "trainables.pruning.magnitude",
    "random": "trainables.pruning.random",
}
"""Name -> module."""


def kept_count(total: int, sparsity: float) -> int:
    """How many of `total` weights a ticket of that sparsity keeps."""
    return total - round(total * sparsity)
