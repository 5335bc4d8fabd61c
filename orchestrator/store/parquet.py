"""Tickets as Parquet: one row and one row group per array, readable by any Parquet tool.

The rows of a ticket over weights are the tensors of its pool; those of other kinds are the kind's
own arrays.

| column          | type         |                                                          |
|-----------------|--------------|----------------------------------------------------------|
| `ordinal`       | int32        | position in the model's order of depth, from 0           |
| `name`          | string       | name of the weight, or of another array                  |
| `shape`         | list<int32>  |                                                          |
| `size`          | int64        | number of weights, or of other units                     |
| `nnz`           | int64        | number of them that are kept                             |
| `bits`          | binary       | packed mask, C order, least significant bit first        |
| `tensor_sha256` | binary(32)   | hash of `bits`                                           |
| `scores`        | binary       | only with scores: a float32 per unit, C order, little    |
|                 |              | endian                                                   |
| `scores_sha256` | binary(32)   | only with scores: hash of `scores`                       |

Key-value metadata: `format`, `content_sha256` (`Ticket.sha256`), `architecture`, `model_sha256`,
`pool`, `tensors`, `kept`, `total`, and `kind` if the units are not weights. Only `bits` is
compressed, with zstd at level 1: higher levels
are slower and, on sparse bits, larger (at 90 % sparsity .503 against .545 bits per weight at level
3). All columns except `bits` and the hash have min/max statistics, so the footer alone gives each
layer's sparsity and a filter on `name` reads one row group. A tensor adds about 1.1 kB to its bits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import Damaged
from orchestrator.store.advice import REPAIR
from orchestrator.store.ticket import (
    DEFAULT_KIND,
    TICKET_FORMAT,
    Ticket,
    TicketTensor,
    content_hash,
    count_bits,
)

TICKET_SCHEMA = pa.schema(
    [
        ("ordinal", pa.int32()),
        ("name", pa.string()),
        ("shape", pa.list_(pa.int32())),
        ("size", pa.int64()),
        ("nnz", pa.int64()),
        ("bits", pa.binary()),
        ("tensor_sha256", pa.binary(32)),
    ]
)

_SCORED_SCHEMA = TICKET_SCHEMA.append(pa.field("scores", pa.binary())).append(
    pa.field("scores_sha256", pa.binary(32))
)
_LARGE = ("bits", "scores")
"""Columns that are read one row at a time."""

MAX_TENSORS = 65_536


def encode_ticket(ticket: Ticket) -> bytes:
    """Return the ticket as a Parquet file in memory."""
    scored = any(tensor.scores for tensor in ticket.tensors)
    schema = _SCORED_SCHEMA if scored else TICKET_SCHEMA
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(
        buffer,
        schema,
        compression={name: "zstd" if name == "bits" else "none" for name in schema.names},
        compression_level={"bits": 1},
        use_dictionary=False,
        write_statistics=["ordinal", "name", "shape.list.element", "size", "nnz"],
        store_schema=False,
    ) as writer:
        writer.add_key_value_metadata(_metadata(ticket))
        for ordinal, tensor in enumerate(ticket.tensors):
            writer.write_table(pa.Table.from_pylist([_row(ordinal, tensor)], schema=schema))
    return bytes(buffer.getvalue())


def decode_ticket(data: bytes, sha256: str, *, where: str) -> Ticket:
    """Return the ticket with that hash from a Parquet file's bytes; `where` names the file in
    errors.

    The columns other than `bits` and `scores` are read first: they give the hash, and with it the
    length of each array's bits. A few kilobytes can unpack to any number of gigabytes; such a file
    is rejected at its first page that is too long, which has at most 2 GB.

    Raises:
        Damaged: this is not a ticket, or not the one that was written.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        metadata = {k.decode(): v.decode() for k, v in (file.metadata.metadata or {}).items()}
        if metadata.get("format") != TICKET_FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {TICKET_FORMAT!r}")
        rows = _small_columns(file)
        architecture, model_sha256, pool = (
            metadata[name] for name in ("architecture", "model_sha256", "pool")
        )
        kind = metadata.get("kind", DEFAULT_KIND)
        parts = (
            (
                str(row["name"]),
                tuple(row["shape"]),
                row["tensor_sha256"] + (row.get("scores_sha256") or b""),
            )
            for row in rows
        )
        if content_hash(architecture, model_sha256, pool, parts, kind) != sha256:
            raise ValueError("it is another ticket, or not as it was written")
        tensors = tuple(_checked(*pair) for pair in zip(rows, _large_columns(file), strict=True))
        ticket = Ticket(
            architecture=architecture,
            model_sha256=model_sha256,
            pool=pool,
            tensors=tensors,
            kind=kind,
        )
        if metadata != _metadata(ticket):
            raise ValueError("its content does not match the hash or the counts in its metadata")
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, struct.error) as error:
        reason = str(error).strip().partition("\n")[0]
        raise Damaged(f"{where}: damaged ticket ({reason}); {REPAIR}") from error
    return ticket


def _small_columns(file: pq.ParquetFile) -> list[dict[str, Any]]:
    """The rows without the large columns. (The sizes in the footer are not read: pyarrow aborts the
    process on a damaged one.)"""
    if file.metadata.num_rows > MAX_TENSORS:
        raise ValueError(f"it has {file.metadata.num_rows:,} tensors, more than {MAX_TENSORS:,}")
    rows: list[dict[str, Any]] = []
    names = [name for name in _SCORED_SCHEMA.names if name not in _LARGE]
    for batch in file.iter_batches(columns=names):
        rows += batch.to_pylist()
    return rows


def _large_columns(file: pq.ParquetFile) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(batch_size=1, columns=list(_LARGE)):
        yield from batch.to_pylist()


def _metadata(ticket: Ticket) -> dict[str, str]:
    return {
        "format": TICKET_FORMAT,
        "content_sha256": ticket.sha256,
        "architecture": ticket.architecture,
        "model_sha256": ticket.model_sha256,
        "pool": ticket.pool,
        "tensors": str(len(ticket.tensors)),
        "kept": str(ticket.kept),
        "total": str(ticket.total),
    } | ({} if ticket.kind == DEFAULT_KIND else {"kind": ticket.kind})


def _row(ordinal: int, tensor: TicketTensor) -> dict[str, object]:
    return {
        "ordinal": ordinal,
        "name": tensor.name,
        "shape": list(tensor.shape),
        "size": tensor.size,
        "nnz": tensor.kept,
        "bits": tensor.bits,
        "tensor_sha256": tensor.sha256,
        "scores": tensor.scores or None,
        "scores_sha256": tensor.scores_sha256 or None,
    }


def _checked(row: dict[str, Any], large: dict[str, Any]) -> TicketTensor:
    """Return the tensor of a row. Raises ValueError if its values do not agree with each other."""
    shape, kept, bits = row["shape"], row["nnz"], large["bits"]
    scores = large.get("scores") or b""
    if not (isinstance(bits, bytes) and isinstance(kept, int)):
        raise ValueError(f"a value of {row['name']} is missing")
    tensor = TicketTensor(
        name=str(row["name"]), shape=tuple(shape), bits=bits, kept=kept, scores=scores
    )
    if tensor.scores_sha256 != (row.get("scores_sha256") or b""):
        raise ValueError(f"the scores of {tensor.name} do not match their hash")
    if scores and len(scores) != 4 * tensor.size:
        raise ValueError(f"the shape and the scores of {tensor.name} do not agree")
    if tensor.sha256 != row["tensor_sha256"]:
        raise ValueError(f"the bits of {tensor.name} do not match their hash")
    full_bytes, rest = divmod(tensor.size, 8)
    fits = len(bits) == full_bytes + (rest > 0) and (not rest or bits[-1] >> rest == 0)
    if not fits or tensor.size != row["size"] or count_bits(bits) != kept:
        raise ValueError(f"the shape, counts and bits of {tensor.name} do not agree")
    return tensor
