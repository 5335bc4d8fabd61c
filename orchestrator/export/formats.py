"""Tickets in formats of other tools.

`mask_files` and `prune_state_files` return the content of files by name; `write_files` writes them
to a folder. Weights are a mapping of names to float arrays; names may have the prefix `backbone.`,
as in a rewind point.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InputError
from orchestrator.files import replace_files_in
from orchestrator.store.ticket import Ticket
from trainables.spec import BACKBONE

Arrays = Mapping[str, npt.NDArray[Any]]
Masks = Mapping[str, npt.NDArray[np.bool_]]


def mask_files(ticket: Ticket) -> dict[str, bytes]:
    """Return `masks.safetensors`: a boolean tensor per array of the ticket, True = kept; for a
    ticket over weights, one per prunable weight."""
    return {"masks.safetensors": _tensors(ticket.arrays(), ticket)}


def prune_state_files(ticket: Ticket, masks: Masks, weights: Arrays) -> dict[str, bytes]:
    """Return `prune_state.safetensors`: the state dict of a model under `torch.nn.utils.prune`.

    A pruned weight is two tensors of its own dtype, `<name>_orig` with all values and `<name>_mask`
    of ones and zeros; all other tensors are unchanged. `masks` are those of the weights that the
    ticket sets to zero.

    Raises:
        InputError: the weights lack a tensor of the masks, or have it in another shape.
    """
    state = dict(weights)
    for name, mask in masks.items():
        weight_name = _weight_name(name, mask.shape, weights)
        values = state.pop(weight_name)
        state[f"{weight_name}_orig"] = values
        state[f"{weight_name}_mask"] = mask.astype(values.dtype)
    return {"prune_state.safetensors": _tensors(state, ticket)}


def apply_masks(masks: Masks, weights: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Return all of `weights`, with those that the masks do not keep set to zero.

    Raises:
        InputError: the weights lack a tensor of the masks, or have it in another shape.
    """
    arrays = dict(weights)
    for name, mask in masks.items():
        weight_name = _weight_name(name, mask.shape, weights)
        values = weights[weight_name]
        arrays[weight_name] = np.where(mask, values, values.dtype.type(0))
    return arrays


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files into `folder`, which is created if needed; return their paths.

    Raises:
        InputError: a name points outside the folder, or the folder cannot be written.
    """
    for name in files:
        if name in ("", "..") or Path(name).name != name:
            raise InputError(
                f"{name!r} is not a file name inside {folder}; use a name without slashes"
            )
    with replace_files_in(folder) as scratch:
        for name, data in files.items():
            (scratch / name).write_bytes(data)
    return [folder / name for name in files]


def _weight_name(name: str, shape: tuple[int, ...], weights: Arrays) -> str:
    """The name of the ticket's tensor `name` in `weights`."""
    for candidate in (name, BACKBONE + name):
        if candidate in weights:
            if weights[candidate].shape == shape:
                return candidate
            raise InputError(
                f"{candidate} has shape {weights[candidate].shape} in the weights and {shape} in "
                "the ticket; use weights of the model that the ticket was pruned from"
            )
    raise InputError(
        f"the weights have no {name}, which the ticket masks; use weights of the model that the "
        "ticket was pruned from"
    )


def _tensors(arrays: Arrays, ticket: Ticket) -> bytes:
    from safetensors import numpy as safetensors

    # safetensors reads the buffer of a non-contiguous array in the wrong order
    contiguous = {name: np.asarray(values, order="C") for name, values in arrays.items()}
    data: bytes = safetensors.save(contiguous, {"format": "pt", "ticket_sha256": ticket.sha256})
    return data
