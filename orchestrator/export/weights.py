"""Export tickets from the store, alone or applied to the weights that their chain starts from."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from orchestrator.errors import InputError
from orchestrator.export.formats import (
    apply_masks,
    mask_files,
    prune_state_files,
    write_files,
)
from orchestrator.files import replace_files_in
from orchestrator.plan.keys import from_json
from orchestrator.store.parents import pruned_run, rewind_weights
from orchestrator.store.record import Record
from orchestrator.store.tickets import TrialStore
from trainables.models import MODELS
from trainables.spec import BACKBONE, PruneSpec, Start
from trainables.tickets import units
from trainables.tickets.base import kind_module, shapes_of
from trainables.training.start import init_backbone, start_weights


def export_ticket(
    store: TrialStore, record: Record, file_format: str, folder: Path, weights: Path | None
) -> list[Path]:
    """Write the ticket of the prune trial `record` into `folder`; return the files written.

    `file_format` is `masks` (the ticket's boolean tensors, of any kind of ticket), `prune` (the
    state dict of the network under `torch.nn.utils.prune`) or `pretrained` (a pruned checkpoint for
    transformers' `from_pretrained`); the last two are for tickets that set weights to zero.
    `weights` is the published checkpoint that the sweep started from, or another checkpoint of that
    model to apply the ticket to.

    Raises:
        InputError: `weights` is needed but not given, or does not exist, or the ticket sets no
            weights to zero.
        trainables.errors.CheckpointError: `weights` cannot be loaded.
        trainables.errors.PluginError: the model is from outside the package, and has changed.
    """
    assert record.ticket is not None
    ticket = store.ticket(record.ticket.sha256)
    if file_format == "masks":
        return write_files(folder, mask_files(ticket))
    spec = from_json(record.spec)
    assert isinstance(spec, PruneSpec)
    if spec.model.architecture not in MODELS:
        raise InputError(
            f"ticket {ticket.sha256[:12]}: its model {spec.model.architecture!r} is not known here;"
            " install its package, or name the sweep: `sweepstakes tickets --sweep FILE export …`"
        )
    MODELS.check_source(spec.model.architecture, spec.model.source)
    with torch.device("meta"):  # only names and shapes count
        parameters = dict(init_backbone(spec.model, 0, 0.0).named_parameters())
    masks = kind_module(ticket.kind).weight_masks(shapes_of(parameters), ticket.arrays())
    if not masks:
        raise InputError(
            f"ticket {ticket.sha256[:12]}: a ticket over {units(ticket.kind)} sets no weights to "
            f"zero, so the format {file_format!r} has nothing to show; use `--format masks`"
        )
    arrays = {name: value.numpy() for name, value in _weights(store, spec, weights).items()}
    if file_format == "prune":
        return write_files(folder, prune_state_files(ticket, masks, arrays))
    pruned = {name: torch.from_numpy(v) for name, v in apply_masks(masks, arrays).items()}
    module: Any = importlib.import_module(MODELS[spec.model.architecture].module)
    with replace_files_in(folder) as scratch:
        module.save_pretrained(pruned, spec.model, scratch)
        names = sorted(file.name for file in scratch.iterdir())
    return [folder / name for name in names]


def _weights(store: TrialStore, spec: PruneSpec, path: Path | None) -> dict[str, torch.Tensor]:
    """Backbone weights: those of the file, or the initial ones of the run the ticket is from."""
    if path is not None and not path.exists():
        raise InputError(f"{path}: no such file; give the checkpoint to apply the ticket to")
    module = importlib.import_module(MODELS[spec.model.architecture].module)
    start = _start(store, spec)
    if path is not None and (start is None or start.kind != "pretrained"):
        loaded: dict[str, torch.Tensor] = module.load(path, spec.model).backbone
        return loaded
    if start is None:
        raise InputError("the ticket was chosen without weights; give --weights FILE")
    if start.kind == "pretrained" and path is None:
        raise InputError("the sweep started from a checkpoint file; give it with --weights FILE")
    rewind = rewind_weights(store, start)
    prunable = init_backbone(spec.model, 0, 0.0).prunable
    state = start_weights(spec.model, start, path, rewind, prunable)
    return {
        name.removeprefix(BACKBONE): value
        for name, value in state.items()
        if name.startswith(BACKBONE)
    }


def _start(store: TrialStore, spec: PruneSpec) -> Start | None:
    parent = pruned_run(store, spec)
    return parent[0].start if parent else spec.start
