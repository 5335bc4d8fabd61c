"""Content that runs code where it is unpickled, and that takes more memory than there is."""

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


class Code:
    """Unpickled, it makes the file `flag`."""

    def __init__(self, flag: Path) -> None:
        self._flag = flag

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self._flag,)


def pickled(flag: Path) -> bytes:
    return pickle.dumps(Code(flag))


def torch_file(flag: Path) -> bytes:
    """As `torch.save` writes a state dict in which one value is code."""
    with io.BytesIO() as stream:
        torch.save({"weight": torch.ones(2), "more": Code(flag)}, stream)
        return stream.getvalue()


def npy(flag: Path) -> bytes:
    """An array of objects, as numpy saves it."""
    with io.BytesIO() as stream:
        np.save(stream, np.array([Code(flag)], dtype=object), allow_pickle=True)
        return stream.getvalue()


TENSORS = 8


def ticket() -> Ticket:
    masks = {f"w{number}": np.ones((8, 8), np.bool_) for number in range(TENSORS)}
    return Ticket.from_masks(masks, scheme="uniter", model_sha256="0" * 64, pool="encoder")


def with_code_in_its_schema(flag: Path) -> bytes:
    """A ticket whose column of bits claims to be of a type that Python code defines."""
    claims = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickled(flag),
    }
    table = pq.read_table(pa.BufferReader(parquet.encode(ticket())))
    fields = [f.with_metadata(claims) if f.name == "bits" else f for f in table.schema]
    with io.BytesIO() as stream:
        pq.write_table(table.cast(pa.schema(fields, table.schema.metadata)), stream)
        return stream.getvalue()


def bomb(size: int) -> bytes:
    """The ticket of `ticket()`, but that the bits of each tensor are `size` zeros: unpacked it is
    30,000 times as long."""
    table = pq.read_table(pa.BufferReader(parquet.encode(ticket())))
    place = table.schema.get_field_index("bits")
    with io.BytesIO() as stream:
        with pq.ParquetWriter(
            stream, table.schema, compression="zstd", use_dictionary=False
        ) as file:
            for row in range(TENSORS):
                bits = pa.array([bytes(size)], pa.binary())
                file.write_table(table.slice(row, 1).set_column(place, "bits", bits))
        return stream.getvalue()
