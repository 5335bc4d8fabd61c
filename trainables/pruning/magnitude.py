"""Keep the largest |w| (VLT Algorithm 1, step 3), exactly, over the pool or tensor by tensor.

The bits of a non-negative float32 are ordered as the number is, so |w| is ranked as an integer:
0.6 CPU-seconds and 105 MiB for 86 million weights, where `torch.nn.utils.prune.global_unstructured`
takes 19 s and 4 GiB and leaves ties to the sort (`make bench`).
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trainables.distributed.collectives import ALONE, Peers
from trainables.errors import InvariantError
from trainables.pruning import kept_count
from trainables.pruning.selection import check_covers, keep_largest
from trainables.spec import CutSpec
from trainables.tickets.weights import Masks, Weights

_INFINITY = 0x7F800000


def cut(
    spec: CutSpec, weights: Weights, worn: Masks | None, like: Masks | None
) -> dict[str, NDArray[np.bool_]]:
    """The ticket of the largest magnitudes; a subset of `worn`, even where kept weights are 0.

    Raises InvariantError for a weight that is not finite, and where trained weights were rounded to
    bfloat16, whose ties would decide by position who is kept; TicketMismatch if `worn` covers other
    tensors, or keeps fewer weights than the new ticket would.
    """
    return cut_stretches(spec, weights, worn, ALONE)


def cut_stretches(
    spec: CutSpec, weights: Weights, worn: Masks | None, peers: Peers
) -> dict[str, NDArray[np.bool_]]:
    """This process's stretches (n,) of the same ticket, where `weights` and `worn` are its
    stretches of the whole: bit for bit what `cut` gives for that."""
    if worn is not None:
        check_covers(worn, weights, spec.pool)
    if spec.run:
        _check_precise(weights, peers)
    sizes = peers.total(np.array([weight.numel() for weight in weights.values()], np.int64))
    keys = {
        name: partial(_keys, name, weight, None if worn is None else worn[name])
        for name, weight in weights.items()
    }
    if spec.scope == "global":
        return keep_largest(keys, kept_count(int(sizes.sum()), spec.sparsity), peers)
    masks: dict[str, NDArray[np.bool_]] = {}
    for name, size in zip(weights, sizes.tolist(), strict=True):
        masks |= keep_largest({name: keys[name]}, kept_count(size, spec.sparsity), peers)
    return masks


def _check_precise(weights: Weights, peers: Peers) -> None:
    """Training never leaves a pool of float32 masters with all their 16 low bits at zero."""
    precise = some = False
    for weight in weights.values():
        bits = weight.detach().cpu().contiguous().numpy().view(np.int32)
        precise = bool(np.any(bits & np.int32(0xFFFF)))
        some = some or bool(np.any(bits & np.int32(0x7FFFFFFF)))
        if precise:
            break
    anywhere = peers.total(np.array([precise, some], np.int64))
    if anywhere[1] and not anywhere[0]:
        raise InvariantError(
            "cut: the weights to be ranked hold bfloat16 values only, not the float32 masters; "
            "this is a defect, please report it"
        )


def _keys(name: str, weight: Tensor, worn: NDArray[np.bool_] | None) -> NDArray[np.int32]:
    """The bits of |w|, and -1 outside the worn ticket."""
    bits = weight.detach().cpu().contiguous().numpy().view(np.int32) & np.int32(0x7FFFFFFF)
    if bits.size and bits.max() >= _INFINITY:
        raise InvariantError(
            f"cut: {name} has weights that are not finite, which have no rank; "
            "the run diverged, lower its learning rate"
        )
    return bits if worn is None else np.where(worn, bits, np.int32(-1))
