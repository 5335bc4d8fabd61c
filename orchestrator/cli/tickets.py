"""`sweepstakes tickets`: look into the store, check it, take tickets out of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from orchestrator.api import workspace
from orchestrator.cli.shared import KEY, finite, out
from orchestrator.errors import InputError
from orchestrator.sweep import sweep_file
from orchestrator.sweep.config import Placement

if TYPE_CHECKING:
    from orchestrator.store.record import Record, TicketRef
    from orchestrator.store.tickets import TicketStore

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
@click.option(
    "--sweep",
    type=click.Path(path_type=Path),
    help="Sweep file whose store to look into; by default this machine's own.",
)
@click.pass_context
def tickets(context: click.Context, sweep: Path | None) -> None:
    """List, show, compare, verify and export tickets. KEY may be a unique beginning."""
    home: Path = context.obj

    @contextmanager
    def opened() -> Iterator[TicketStore]:
        placement = sweep_file.load(sweep).placement if sweep else Placement()
        with workspace.connected(placement, home, tracking=False) as found:
            yield found.store

    context.obj = opened


Opened = Callable[[], Any]
"""Opens the store for a `with` block."""


@tickets.command("list")
@JSON
@click.pass_obj
def list_(opened: Opened, as_json: bool) -> None:
    """One row per ticket."""
    with opened() as store:
        rows = [_row(record, record.ticket) for record in _cuts(store)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("key", "model", "task", "level", "sparsity", "kept", "bytes", "hash"):
        table.add_column(
            column,
            justify="right" if column in _NUMBERS else "left",
            overflow="fold",
            no_wrap=column not in ("model", "task"),  # which make room in a narrow terminal
        )
    for row in rows:
        table.add_row(
            row["key"][:12],
            row["model"],
            row["task"],
            str(row["level"]),
            f"{row['sparsity']:.2%}",
            f"{row['nnz']:,}",
            f"{row['bytes']:,}",
            row["hash"][:12],
        )
    out.print(table)


_NUMBERS = ("level", "sparsity", "kept", "bytes")


def _cuts(store: TicketStore) -> list[Record]:
    records = store.records().values()
    return sorted(
        (record for record in records if record.kind == "cut"),
        key=lambda r: (
            str(r.about.get("model")),
            str(r.about.get("task")),
            r.about.get("level", 0),
        ),
    )


def _row(record: Record, ticket: TicketRef | None) -> dict[str, Any]:
    assert ticket is not None
    return {
        "key": record.key,
        "model": record.about.get("model", ""),
        "task": record.about.get("task", ""),
        "level": record.about.get("level", 0),
        "sparsity": 1 - ticket.kept / ticket.total,
        "nnz": ticket.kept,
        "bytes": ticket.bytes,
        "hash": ticket.sha256,
        "parents": list(record.parents),
    }


def _find(store: TicketStore, beginning: str) -> Record:
    """The cut whose key or ticket hash begins so; InputError unless there is exactly one."""
    found = [
        record
        for record in _cuts(store)
        if record.key.startswith(beginning)
        or (record.ticket is not None and record.ticket.sha256.startswith(beginning))
    ]
    if len(found) != 1 and len({r.ticket.sha256 for r in found if r.ticket}) != 1:
        raise InputError(
            f"{beginning!r} names {len(found)} tickets; give more digits of one key from"
            " `sweepstakes tickets list`"
        )
    return found[0]


@tickets.command()
@KEY
@JSON
@click.pass_obj
def show(opened: Opened, key: str, as_json: bool) -> None:
    """Where a ticket comes from, and what it keeps layer by layer."""
    with opened() as store:
        record = _find(store, key)
        assert record.ticket is not None
        ticket = store.ticket(record.ticket.sha256)
    layers = [
        {"name": t.name, "shape": list(t.shape), "kept": t.kept, "size": t.size}
        for t in ticket.tensors
    ]
    if as_json:
        row = _row(record, record.ticket)
        click.echo(json.dumps(row | {"spec": record.spec, "layers": layers}, indent=2))
        return
    for name, value in _row(record, record.ticket).items():
        out.print(f"[dim]{name:9}[/] {value}", soft_wrap=True)
    table = Table("layer", "shape", "kept", "sparsity", box=None, pad_edge=False)
    for tensor in ticket.tensors:
        shape = " x ".join(map(str, tensor.shape))
        table.add_row(
            tensor.name, shape, f"{tensor.kept:,}", f"{1 - tensor.kept / tensor.size:.1%}"
        )
    out.print(table)


@tickets.command()
@click.argument("a")
@click.argument("b")
@JSON
@click.pass_obj
def diff(opened: Opened, a: str, b: str, as_json: bool) -> None:
    """Show the overlap of two tickets beside its chance level.

    The overlap is what both keep over what either keeps.
    """
    from orchestrator.store.ticket import compare

    with opened() as store:
        refs = [_find(store, key).ticket for key in (a, b)]
        left, right = (store.ticket(ref.sha256) for ref in refs if ref is not None)
    comparison = compare(left, right)
    layers = [*comparison.layers, comparison.total]
    if as_json:
        rows = [
            {"name": o.name, "both": o.both, "overlap": o.jaccard, "chance": o.chance}
            for o in layers
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table("layer", "kept by both", "overlap", "chance", box=None, pad_edge=False)
    for o in layers:
        table.add_row(o.name, f"{o.both:,}", f"{o.jaccard:.3f}", f"{o.chance:.3f}")
    out.print(table)


@tickets.command()
@click.option("--repair", is_flag=True, help="Delete what is damaged, so that a run makes it anew.")
@click.pass_obj
def verify(opened: Opened, repair: bool) -> None:
    """Hash everything again; name what is damaged, missing or orphaned. Exit code 1 if damaged."""
    from orchestrator.store import maintenance as upkeep

    with opened() as store:
        found = upkeep.verify(store)
        mended = upkeep.repair(store, found) if repair else ()
    for fault in found.damaged.values():
        out.print(f"[red]damaged[/]  {escape(fault)}", soft_wrap=True)
    for path, keys in found.missing.items():
        needed_by = ", ".join(key[:12] for key in keys)
        out.print(f"[red]missing[/]  {path}, needed by {needed_by}", soft_wrap=True)
    for item in found.orphaned:
        out.print(
            f"orphaned {item.path} ({item.size:,} bytes); `tickets gc` removes it", soft_wrap=True
        )
    if found.abandoned:
        size = sum(item.size for item in found.abandoned)
        out.print(
            f"{len(found.abandoned):,} objects ({size:,} bytes) of trials that were never finished;"
            " a run of their sweep goes on from them, `tickets gc --abandoned` removes them",
            soft_wrap=True,
        )
    for path in mended:
        out.print(f"deleted  {path}", soft_wrap=True)
    state = "sound" if found.sound else "not sound"
    out.print(f"{found.checked:,} objects read, {found.bytes:,} bytes: {state}")
    if not found.sound and not repair:
        raise click.exceptions.Exit(1)


@tickets.command()
@click.option("--dry-run", is_flag=True, help="Only name what would be deleted.")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0, max=1e6),
    callback=finite,
    default=24.0,
    show_default=True,
    help="Hours; a sweep that is running has objects no record needs yet.",
)
@click.option(
    "--abandoned",
    is_flag=True,
    help="Also what trials left that were never finished: checkpoints, failures, logs.",
)
@click.pass_obj
def gc(opened: Opened, dry_run: bool, older_than: float, abandoned: bool) -> None:
    """Delete objects that nobody needs."""
    from orchestrator.store import maintenance as upkeep

    grace = timedelta(hours=older_than)
    with opened() as store:
        gone = upkeep.collect(store, grace=grace, abandoned=abandoned, dry_run=dry_run)
    for item in gone:
        verb = "would delete" if dry_run else "deleted"
        out.print(f"{verb} {item.path} ({item.size:,} bytes)", soft_wrap=True)
    out.print(f"{len(gone)} objects, {sum(item.size for item in gone):,} bytes")


@tickets.command("export")
@KEY
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to write to; made if it is not there.",
)
@click.option(
    "--form",
    type=click.Choice(["masks", "prune", "pretrained"]),
    default="masks",
    show_default=True,
    help="Boolean masks, a torch.nn.utils.prune state dict, or a folder for from_pretrained.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Checkpoint the sweep started from, or another of that model to lay the ticket on.",
)
@click.pass_obj
def export(opened: Opened, key: str, folder: Path, form: str, weights: Path | None) -> None:
    """Take a ticket out of the store, as safetensors."""
    from orchestrator.export import weights as exports

    with opened() as store:
        files = exports.write(store, _find(store, key), form, folder, weights)
    for file in files:
        out.print(str(file), soft_wrap=True)
