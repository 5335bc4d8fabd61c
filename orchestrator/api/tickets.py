"""The content of a store: tickets, records, rewind points and logs, found by a prefix of a key."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from orchestrator.api.workspace import (
    AnySweep,
    has_store,
    home_folder,
    read_sweep,
    store_server,
)
from orchestrator.environment import set_variables
from orchestrator.errors import InputError
from orchestrator.plan.keys import match_prefix
from orchestrator.store import tickets
from orchestrator.store.objects import ReadOnlyObjects
from orchestrator.store.record import Record
from orchestrator.store.ticket import DEFAULT_KIND, Ticket
from orchestrator.sweep.config import Placement, StoreConfig
from trainables.tickets import units

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

TICKET_COLUMNS = {
    **dict.fromkeys(("key", "kind", "model", "task"), "str"),
    "level": "int64",
    "sparsity": "float64",
    **dict.fromkeys(("nnz", "bytes"), "int64"),
    "hash": "str",
    "parents": "object",
}


@dataclass(frozen=True, slots=True)
class StoredTicket:
    """A ticket, and the record of the prune trial that made it."""

    record: Record
    packed: Ticket
    """The ticket as it is stored: one packed array of bits per tensor."""

    @property
    def key(self) -> str:
        return self.record.key

    @property
    def sparsity(self) -> float:
        """The pruned share of the pool, 0 to 1."""
        return 1 - self.packed.kept / self.packed.total

    def masks(self) -> dict[str, Tensor]:
        """Return boolean tensors by name, on the CPU, in order of depth. They are True where a unit
        is kept. Of a ticket of weights, names and shapes are those of the backbone's
        parameters."""
        import torch

        return {name: torch.from_numpy(array) for name, array in self.packed.arrays().items()}

    def layers(self) -> pd.DataFrame:
        """Return one row per tensor: `name`, `shape`, `kept` of `size` weights, and `sparsity`."""
        import pandas as pd

        rows = [{**row, "sparsity": 1 - row["kept"] / row["size"]} for row in ticket_layers(self)]
        return pd.DataFrame(rows, columns=["name", "shape", "kept", "size", "sparsity"])

    def __repr__(self) -> str:
        labels = self.record.labels
        where = f"{labels.get('model', '')} {labels.get('task', '')} level {labels.get('level', 0)}"
        kept = f"{self.packed.kept:,} of {self.packed.total:,} {units(self.packed.kind)} kept"
        return f"<StoredTicket {self.key[:12]} {where}, {self.sparsity:.2%} pruned, {kept}>"


class TicketStore:
    """A store of results that is open for reading: it starts no Ray, and writes nothing.

    A local store is a server, which is started if it does not run, and stopped when the last user
    of it closes. Close it with a `with` block, or with `close`::

        with TicketStore.open(home=".sweepstakes") as store:
            store.tickets()                      # a pandas frame, one row per ticket
            masks = store.ticket("3f9a").masks() # name -> torch.BoolTensor

    The methods raise `StoreError` if the store does not answer, or if an object is damaged.
    """

    def __init__(self, store: tickets.TrialStore, resources: ExitStack) -> None:
        self._store = store
        self._close = weakref.finalize(self, resources.close)

    @classmethod
    def open(
        cls, source: AnySweep | StoreConfig | None = None, *, home: str | Path | None = None
    ) -> Self:
        """Open the local store in `home`, the store of a sweep, or the one at an address.

        Args:
            source: a sweep, the path of its file, or the address
                `StoreConfig(url="s3://BUCKET/PREFIX", endpoint=..., region=...)`. By default, the
                local store in `home`. Credentials of S3 are read from the environment.
            home: the folder that a local store is in. Default: `$SWEEPSTAKES_HOME`, or else
                `.sweepstakes` in the working directory.

        Raises:
            InputError: no sweep has run in `home`, or the sweep file is invalid.
            StoreError: the machine's AWS settings cannot be used.
        """
        from orchestrator.store.s3 import S3ObjectStore

        folder = home_folder(home)
        placement = _placement(source)
        if not has_store(placement, folder):
            raise InputError(
                f"{folder}: no sweep has run here; give another `home`, or the sweep whose store"
                " is to be opened"
            )
        with ExitStack() as stack:
            address, credentials = stack.enter_context(store_server(placement, folder))
            # While the store is open, the caller may open others, which have their own credentials.
            with set_variables(credentials):
                objects = S3ObjectStore(address)
            return cls(tickets.TrialStore(ReadOnlyObjects(objects)), stack.pop_all())

    def close(self) -> None:
        """Close the store; its local server is stopped, unless something else uses it."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def tickets(self) -> pd.DataFrame:
        """Return one row per ticket, ordered by model, task and level.

        Columns: `key` (of the prune trial), `kind` (of the ticket, such as `weights`), `model`,
        `task`, `level`, `sparsity` (0 to 1), `nnz` (kept units), `bytes` (in the store), `hash`
        (of the content) and `parents` (keys).
        """
        import pandas as pd

        rows = [ticket_row(record) for record in ticket_records(self._store)]
        return pd.DataFrame(rows, columns=list(TICKET_COLUMNS)).astype(TICKET_COLUMNS)

    def ticket(self, prefix: str) -> StoredTicket:
        """Return the ticket whose key or hash starts with `prefix`.

        Raises:
            InputError: no ticket matches, or several different ones do.
        """
        return read_ticket(self._store, prefix)

    def records(self) -> dict[str, Record]:
        """Return the records of all trials that are done, by key."""
        return self._store.records()

    def record(self, prefix: str) -> Record:
        """Return the record of the trial whose key starts with `prefix`: its spec, scores, curve,
        checks and costs.

        Raises:
            InputError: no trial or several trials match.
        """
        keys = sorted(self._store.keys(prefix))
        return self._store.record(match_prefix(prefix, keys, "record", "`records` returns all"))

    def rewind_point(self, prefix: str) -> dict[str, Tensor]:
        """Return the weights (float32, on the CPU) of the rewind trial whose key starts with
        `prefix`. Names begin with `backbone.`, or with that of the task head.

        Raises:
            InputError: no rewind point or several of them match.
        """
        from safetensors.torch import load

        records = self._store.records(self._store.keys(prefix)).values()
        keys = [record.key for record in records if record.kind == "rewind"]
        missing = "find their keys in `report(SWEEP).trials()`"
        return load(self._store.rewind_point(match_prefix(prefix, keys, "rewind point", missing)))

    def log(self, prefix: str) -> str:
        """Return the log of all attempts at the trial whose key starts with `prefix`.

        Raises:
            InputError: no log or several logs match.
        """
        return find_log(self._store, prefix)


def _placement(source: AnySweep | StoreConfig | None) -> Placement:
    if source is None:
        return Placement()
    if isinstance(source, StoreConfig):
        return Placement(store=source)
    return read_sweep(source).placement


def ticket_records(store: tickets.TrialStore) -> list[Record]:
    """Return the records of all prune trials, ordered by model, task and level."""
    records = store.records().values()
    return sorted(
        (record for record in records if record.kind == "prune"),
        key=lambda r: (
            str(r.labels.get("model")),
            str(r.labels.get("task")),
            r.labels.get("level", 0),
        ),
    )


def ticket_row(record: Record) -> dict[str, Any]:
    """Return what identifies the ticket of a prune trial, and its size, by the names of
    `TICKET_COLUMNS`."""
    ticket = record.ticket
    assert ticket is not None
    return {
        "key": record.key,
        "kind": record.spec.get("ticket_kind", DEFAULT_KIND),
        "model": record.labels.get("model", ""),
        "task": record.labels.get("task", ""),
        "level": record.labels.get("level", 0),
        "sparsity": 1 - ticket.kept / ticket.total,
        "nnz": ticket.kept,
        "bytes": ticket.bytes,
        "hash": ticket.sha256,
        "parents": list(record.parents),
    }


def ticket_layers(ticket: StoredTicket) -> list[dict[str, Any]]:
    """Return name, shape, kept weights and size of each tensor."""
    return [
        {"name": t.name, "shape": list(t.shape), "kept": t.kept, "size": t.size}
        for t in ticket.packed.tensors
    ]


def find_ticket(store: tickets.TrialStore, prefix: str) -> Record:
    """Return the record of the ticket whose key or hash starts with `prefix`.

    Raises:
        InputError: no ticket matches, or several different ones do.
    """
    records = ticket_records(store)
    by_name = {record.ticket.sha256: record for record in records if record.ticket is not None}
    by_name |= {record.key: record for record in records}
    missing = "list them with `sweepstakes tickets list`, or in Python with `TicketStore.tickets`"
    return by_name[match_prefix(prefix, by_name, "ticket", missing)]


def read_ticket(store: tickets.TrialStore, prefix: str) -> StoredTicket:
    """Return the ticket whose key or hash starts with `prefix`. Raises InputError as
    `find_ticket`."""
    record = find_ticket(store, prefix)
    assert record.ticket is not None
    return StoredTicket(record, store.ticket(record.ticket.sha256))


def find_log(store: tickets.TrialStore, prefix: str) -> str:
    """Return the log of a trial; for a by-product, the log of its training run.

    Raises:
        InputError: no log matches, or several do.
    """
    logs = {key: key for key in store.log_keys(prefix)}
    if not logs:
        runs = {key: store.record(key).spec.get("run") for key in store.keys(prefix)}
        logs = {
            key: run
            for key, run in runs.items()
            if isinstance(run, str) and run in store.log_keys(run)
        }
    missing = (
        "a trial has a log once a worker has started it, and the status of its sweep shows which"
        " trials failed"
    )
    return store.log(logs[match_prefix(prefix, logs, "log", missing)])
