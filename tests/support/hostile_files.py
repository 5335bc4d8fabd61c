"""Hostile files: some run code when unpickled, others unpack to more than the available memory."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from orchestrator.store import parquet
from orchestrator.store.ticket import Ticket


class MaliciousObject:
    """Creates the file `flag` when it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self._flag = flag

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self._flag,)


def pickle_file(flag: Path) -> bytes:
    return pickle.dumps(MaliciousObject(flag))


def torch_file(flag: Path) -> bytes:
    """Return a `torch.save` file whose state dict contains a malicious object."""
    with io.BytesIO() as stream:
        torch.save({"weight": torch.ones(2), "more": MaliciousObject(flag)}, stream)
        return stream.getvalue()


def npy_file(flag: Path) -> bytes:
    """Return a numpy file with an array of objects."""
    with io.BytesIO() as stream:
        np.save(stream, np.array([MaliciousObject(flag)], dtype=object), allow_pickle=True)
        return stream.getvalue()


NUM_TENSORS = 8


def sample_ticket() -> Ticket:
    masks = {f"w{number}": np.ones((8, 8), np.bool_) for number in range(NUM_TENSORS)}
    return Ticket.from_arrays(masks, architecture="uniter", model_sha256="0" * 64, pool="encoder")


def ticket_with_code_in_schema(flag: Path) -> bytes:
    """Return a ticket whose column `bits` declares an extension type defined by Python code."""
    extension = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle_file(flag),
    }
    table = pq.read_table(pa.BufferReader(parquet.encode_ticket(sample_ticket())))
    fields = [f.with_metadata(extension) if f.name == "bits" else f for f in table.schema]
    with io.BytesIO() as stream:
        pq.write_table(table.cast(pa.schema(fields, table.schema.metadata)), stream)
        return stream.getvalue()


def decompression_bomb(size: int) -> bytes:
    """Return `sample_ticket()` with `size` zero bytes as the bits of each tensor: it unpacks to
    30,000 times its size."""
    table = pq.read_table(pa.BufferReader(parquet.encode_ticket(sample_ticket())))
    column = table.schema.get_field_index("bits")
    with io.BytesIO() as stream:
        with pq.ParquetWriter(
            stream, table.schema, compression="zstd", use_dictionary=False
        ) as file:
            for row in range(NUM_TENSORS):
                bits = pa.array([bytes(size)], pa.binary())
                file.write_table(table.slice(row, 1).set_column(column, "bits", bits))
        return stream.getvalue()
