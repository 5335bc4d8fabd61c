"""`sweepstakes tickets`: inspect, verify and clean up a store, and export its tickets."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from orchestrator.api import workspace
from orchestrator.cli.shared import KEY, STORE_OF, out, placement_of

if TYPE_CHECKING:
    from orchestrator.store.tickets import TrialStore

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
@STORE_OF
@click.pass_context
def tickets(context: click.Context, sweep: Path | None) -> None:
    """List, show, compare, verify and export tickets.

    KEY may be a unique prefix of a ticket's key or hash.
    """
    home: Path = context.obj

    @contextmanager
    def open_store() -> Iterator[TrialStore]:
        if sweep:
            workspace.import_files(sweep)
        with workspace.connect(placement_of(sweep), home, tracking=False) as connections:
            yield connections.store

    context.obj = open_store


OpenStore = Callable[[], "AbstractContextManager[TrialStore]"]
"""Opens the store for a `with` block."""


@tickets.command("list")
@JSON
@click.pass_obj
def list_(open_store: OpenStore, as_json: bool) -> None:
    """List all tickets, one per row."""
    from orchestrator.api.tickets import ticket_records, ticket_row

    with open_store() as store:
        rows = [ticket_row(record) for record in ticket_records(store)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("key", "model", "task", "level", "sparsity", "kept", "bytes", "hash"):
        table.add_column(
            column,
            justify="right" if column in _NUMBERS else "left",
            overflow="fold",
            no_wrap=column not in ("model", "task"),  # these make room in a narrow terminal
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


@tickets.command()
@KEY
@JSON
@click.pass_obj
def show(open_store: OpenStore, key: str, as_json: bool) -> None:
    """Show a ticket's origin, and its sparsity by layer or other array."""
    from orchestrator.api.tickets import read_ticket, ticket_layers, ticket_row

    with open_store() as store:
        ticket = read_ticket(store, key)
    row, layers = ticket_row(ticket.record), ticket_layers(ticket)
    if as_json:
        spec = ticket.record.spec
        click.echo(json.dumps(row | {"spec": spec, "layers": layers}, indent=2))
        return
    for name, value in row.items():
        out.print(f"[dim]{name:9}[/] {value}", soft_wrap=True)
    table = Table("layer", "shape", "kept", "sparsity", box=None, pad_edge=False)
    for layer in layers:
        shape = " x ".join(map(str, layer["shape"]))
        sparsity = 1 - layer["kept"] / layer["size"]
        table.add_row(layer["name"], shape, f"{layer['kept']:,}", f"{sparsity:.1%}")
    out.print(table)


@tickets.command()
@click.argument("a", metavar="KEY_A")
@click.argument("b", metavar="KEY_B")
@JSON
@click.pass_obj
def diff(open_store: OpenStore, a: str, b: str, as_json: bool) -> None:
    """Compare two tickets with the overlap expected by chance.

    The overlap is the number of weights, or other units, that both keep, divided by the number that
    either keeps. The tickets are of one kind.
    """
    from orchestrator.api.tickets import read_ticket
    from orchestrator.store.ticket import compare_tickets

    with open_store() as store:
        left, right = (read_ticket(store, key).packed for key in (a, b))
    comparison = compare_tickets(left, right)
    layers = [*comparison.layers, comparison.total]
    if as_json:
        rows = [
            {"name": o.name, "both": o.kept_both, "overlap": o.jaccard, "chance": o.chance}
            for o in layers
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table("layer", "kept by both", "overlap", "chance", box=None, pad_edge=False)
    for o in layers:
        table.add_row(o.name, f"{o.kept_both:,}", f"{o.jaccard:.3f}", f"{o.chance:.3f}")
    out.print(table)


@tickets.command()
@click.option(
    "--repair", is_flag=True, help="Delete damaged objects, so that the next run recreates them."
)
@click.pass_obj
def verify(open_store: OpenStore, repair: bool) -> None:
    """Check the hashes of all objects in the store.

    It lists damaged, missing, orphaned and abandoned objects. The exit code is 1 if any are damaged
    or missing and --repair is not given.
    """
    from orchestrator.store.maintenance import repair_store, verify_store

    with open_store() as store:
        result = verify_store(store)
        deleted = repair_store(store, result) if repair else ()
    for problem in result.damaged.values():
        out.print(f"[red]damaged[/]  {escape(problem)}", soft_wrap=True)
    for path, keys in result.missing.items():
        needed_by = ", ".join(key[:12] for key in keys)
        out.print(f"[red]missing[/]  {path}, needed by {needed_by}", soft_wrap=True)
    for item in result.orphaned:
        out.print(
            f"orphaned {item.path} ({item.size:,} bytes); delete it with `tickets gc`",
            soft_wrap=True,
        )
    if result.abandoned:
        size = sum(item.size for item in result.abandoned)
        out.print(
            f"{len(result.abandoned):,} objects ({size:,} bytes) of unfinished trials; a run of"
            " their sweep resumes from them, `tickets gc --abandoned` deletes them",
            soft_wrap=True,
        )
    for path in deleted:
        out.print(f"deleted  {path}", soft_wrap=True)
    state = "ok" if result.ok else "problems found"
    out.print(f"{result.checked:,} objects read, {result.bytes:,} bytes: {state}")
    if not result.ok and not repair:
        raise click.exceptions.Exit(1)


def _check_finite(
    context: click.Context, parameter: click.Parameter, value: float | None
) -> float | None:
    """Reject NaN and infinity in the option's callback, since click's ranges let NaN pass."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.")
    return value


@tickets.command()
@click.option("--dry-run", is_flag=True, help="Only list what would be deleted.")
@click.option(
    "--older-than",
    metavar="HOURS",
    type=click.FloatRange(min=0, max=1e6),
    callback=_check_finite,
    default=24.0,
    show_default=True,
    help="Minimum age. Young objects may belong to a running sweep.",
)
@click.option(
    "--abandoned",
    is_flag=True,
    help="Also delete the checkpoints, failures and logs of unfinished trials.",
)
@click.pass_obj
def gc(open_store: OpenStore, dry_run: bool, older_than: float, abandoned: bool) -> None:
    """Delete objects that no record refers to."""
    from orchestrator.store.maintenance import collect_garbage

    grace = timedelta(hours=older_than)
    with open_store() as store:
        deleted = collect_garbage(store, grace=grace, abandoned=abandoned, dry_run=dry_run)
    verb = "would delete" if dry_run else "deleted"
    for item in deleted:
        out.print(f"{verb} {item.path} ({item.size:,} bytes)", soft_wrap=True)
    out.print(f"{len(deleted)} objects, {sum(item.size for item in deleted):,} bytes")


@tickets.command("export")
@KEY
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Output folder, created if it does not exist.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["masks", "prune", "pretrained"]),
    default="masks",
    show_default=True,
    help="Boolean masks, or for tickets that set weights to zero a torch.nn.utils.prune state dict"
    " or a folder for from_pretrained.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Checkpoint to apply the ticket to: the one that the sweep started from, or another one of"
    " the same model.",
)
@click.pass_obj
def export(
    open_store: OpenStore, key: str, folder: Path, file_format: str, weights: Path | None
) -> None:
    """Export a ticket as safetensors files."""
    from orchestrator.api.tickets import find_ticket
    from orchestrator.export.weights import export_ticket

    with open_store() as store:
        files = export_ticket(store, find_ticket(store, key), file_format, folder, weights)
    for file in files:
        out.print(str(file), soft_wrap=True)
