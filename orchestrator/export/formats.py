"""Tickets for other tools: each function gives files by name, and `save` writes them to a folder.

Weights are a mapping of names to float arrays; the backbone's names may stand behind `backbone.`,
as they do in a rewind point.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InputError
from orchestrator.store.ticket import Ticket

Arrays = Mapping[str, npt.NDArray[Any]]
BACKBONE = "backbone."


def masks(ticket: Ticket) -> dict[str, bytes]:
    """`masks.safetensors`: a boolean tensor per prunable weight, True = kept."""
    return {"masks.safetensors": _tensors(ticket.masks(), ticket)}


def prune_state(ticket: Ticket, weights: Arrays) -> dict[str, bytes]:
    """`prune_state.safetensors`: the state dict of a model under `torch.nn.utils.prune`.

    A pruned weight is two tensors of its own type, `<name>_orig` with all values and `<name>_mask`
    of ones and zeros; everything else is as it was.

    Raises:
        InputError: the weights lack a tensor of the ticket, or have it in another shape.
    """
    state = dict(weights)
    for name, mask in ticket.masks().items():
        found = _find(name, mask.shape, weights)
        values = state.pop(found)
        state[f"{found}_orig"] = values
        state[f"{found}_mask"] = mask.astype(values.dtype)
    return {"prune_state.safetensors": _tensors(state, ticket)}


def pruned(ticket: Ticket, weights: Arrays) -> dict[str, npt.NDArray[Any]]:
    """All of `weights`, those that the ticket does not keep set to zero.

    Raises:
        InputError: as for `prune_state`.
    """
    arrays = dict(weights)
    for name, mask in ticket.masks().items():
        found = _find(name, mask.shape, weights)
        arrays[found] = np.where(mask, weights[found], weights[found].dtype.type(0))
    return arrays


def save(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files into `folder`, which is made; where they are.

    Raises:
        InputError: a name leads out of the folder, or the folder cannot be written.
    """
    for name in files:
        if name in ("", "..") or Path(name).name != name:
            raise InputError(f"{name!r} is no file name inside {folder}; use a plain name")
    with filled(folder) as scratch:
        for name, data in files.items():
            (scratch / name).write_bytes(data)
    return [folder / name for name in files]


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """A new folder inside `folder`, which is made; the files put into it are moved to `folder` at
    the end, each whole, in place of its like: also of a link, which is not followed.

    Raises:
        InputError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=folder) as scratch:
            yield Path(scratch)
            for file in sorted(Path(scratch).iterdir()):
                os.replace(file, folder / file.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot write into this folder ({error.strerror})") from error


def _find(name: str, shape: tuple[int, ...], weights: Arrays) -> str:
    """The name under which `weights` holds the ticket's tensor."""
    for candidate in (name, BACKBONE + name):
        if candidate in weights:
            if weights[candidate].shape == shape:
                return candidate
            raise InputError(
                f"{candidate} has shape {weights[candidate].shape} in the weights and {shape} in "
                "the ticket; take weights of the model that the ticket was cut from"
            )
    raise InputError(
        f"the weights have no {name}, which the ticket masks; take weights of the model that the "
        "ticket was cut from"
    )


def _tensors(arrays: Arrays, ticket: Ticket) -> bytes:
    from safetensors.numpy import save as to_bytes

    # safetensors reads the buffer of an array that is not contiguous in the wrong order
    contiguous = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    data: bytes = to_bytes(contiguous, {"format": "pt", "ticket_sha256": ticket.sha256})
    return data
