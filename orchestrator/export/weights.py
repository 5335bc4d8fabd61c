"""Tickets taken out of the store, alone or on the weights that their chain starts from."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from orchestrator.errors import InputError
from orchestrator.export import formats as export
from orchestrator.plan.keys import from_json
from orchestrator.store.record import Record
from orchestrator.store.tickets import TicketStore
from trainables.models import MODELS
from trainables.spec import CutSpec, Start, TrainSpec
from trainables.training.start import drawn_backbone, start_weights

BACKBONE = "backbone."


def write(
    store: TicketStore, record: Record, form: str, folder: Path, weights: Path | None
) -> list[Path]:
    """Write the ticket of the cut `record` into `folder`; the files written.

    `form` is `masks` (one boolean tensor per prunable weight), `prune` (the state dict of the
    network under `torch.nn.utils.prune`) or `pretrained` (a pruned checkpoint for transformers'
    `from_pretrained`).
    `weights` is the published checkpoint that the sweep started from, or another one of that model
    to lay the ticket on. Raises InputError when the weights cannot be told, and what the loaders
    of `trainables.models` raise.
    """
    assert record.ticket is not None
    ticket = store.ticket(record.ticket.sha256)
    if form == "masks":
        return export.save(folder, export.masks(ticket))
    spec = from_json(record.spec)
    assert isinstance(spec, CutSpec)
    arrays = {name: value.numpy() for name, value in _weights(store, spec, weights).items()}
    if form == "prune":
        return export.save(folder, export.prune_state(ticket, arrays))
    pruned = {name: torch.from_numpy(v) for name, v in export.pruned(ticket, arrays).items()}
    module: Any = importlib.import_module(MODELS[spec.model.architecture].module)
    with export.filled(folder) as scratch:
        module.save_pretrained(pruned, spec.model, scratch)
        names = sorted(file.name for file in scratch.iterdir())
    return [folder / name for name in names]


def _weights(store: TicketStore, spec: CutSpec, path: Path | None) -> dict[str, torch.Tensor]:
    """The backbone's start weights: of the run the ticket was cut from, or the file's."""
    if path is not None and not path.exists():
        raise InputError(f"{path}: no such file; give the checkpoint to lay the ticket on")
    module = importlib.import_module(MODELS[spec.model.architecture].module)
    start = _start(store, spec)
    if path is not None and (start is None or start.kind != "pretrained"):
        loaded: dict[str, torch.Tensor] = module.load(path, spec.model).backbone
        return loaded
    if start is None:
        raise InputError("a random ticket has no weights of its own; give --weights FILE")
    if start.kind == "pretrained" and path is None:
        raise InputError("the sweep started from a checkpoint file; give it with --weights FILE")
    rewind = _rewind(store, start) if start.kind == "rewind" else None
    prunable = drawn_backbone(spec.model, 0, 0.0).prunable
    state = start_weights(spec.model, start, path, rewind, prunable)
    return {
        name.removeprefix(BACKBONE): value
        for name, value in state.items()
        if name.startswith(BACKBONE)
    }


def _start(store: TicketStore, spec: CutSpec) -> Start | None:
    if not spec.run:
        return spec.start
    run = from_json(store.record(spec.run).spec)
    assert isinstance(run, TrainSpec)
    return run.start


def _rewind(store: TicketStore, start: Start) -> dict[str, torch.Tensor]:
    ref = store.record(start.trial).weights
    assert ref is not None
    return load(store.weights(ref))
