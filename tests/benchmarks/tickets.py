"""How large a ticket is in the store, and how long it takes to write and read one.

Masks over a BERT-base's 85.5 M weights, each weight kept with the same chance: nothing about them
can be predicted, so n * H(p) bits are the least that any code needs. zstd codes bytes by Huffman's
method, which alone costs 1.4 % at 80 %; a row group per tensor costs 1 % more. A magnitude ticket
of layers whose weights differ in scale, as a trained network's do, is smaller: layers differ in
density, and n * H(p) knows only the mean.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from orchestrator.plan.counts import entropy
from orchestrator.store import parquet
from orchestrator.store.ticket import Ticket
from tests.benchmarks.cuts import shapes
from tests.benchmarks.table import Row
from trainables.pruning import magnitude
from trainables.spec import CutSpec, ModelSpec

LIMITS = {0.3: 1.02, 0.5: 1.02, 0.7: 1.02, 0.8: 1.02, 0.9: 1.10}
"""Sparsity -> most bytes for each byte of n * H(p) / 8."""
COMPARED = 0.7
ROUNDS = 5
Masks = dict[str, NDArray[np.bool_]]


def draw(sparsity: float) -> Masks:
    chance = np.random.default_rng(0)
    return {
        f"encoder.{number}.weight": chance.random(shape, np.float32) >= sparsity
        for number, shape in enumerate(shapes())
    }


def draw_scaled(sparsity: float) -> Masks:
    """The largest of normal weights whose standard deviation differs up to 2x between tensors."""
    chance = np.random.default_rng(0)
    weights = {
        f"encoder.{number}.weight": torch.from_numpy(
            chance.standard_normal(shape, np.float32) * np.float32(chance.uniform(0.02, 0.04))
        )
        for number, shape in enumerate(shapes())
    }
    spec = CutSpec(model=ModelSpec(architecture="uniter"), sparsity=sparsity)
    return magnitude.cut(spec, weights, None, None)


def encode(masks: Masks) -> bytes:
    ticket = Ticket.from_masks(masks, scheme="uniter", model_sha256="0" * 64, pool="encoder+pooler")
    return parquet.encode(ticket)


def decode(data: bytes) -> Masks:
    sha256 = pq.read_metadata(io.BytesIO(data)).metadata[b"content_sha256"].decode()
    return parquet.decode(data, sha256, where="benchmark").masks()


def save(masks: Masks, dtype: torch.dtype) -> bytes:
    file = io.BytesIO()
    torch.save({name: torch.from_numpy(mask).to(dtype) for name, mask in masks.items()}, file)
    return file.getvalue()


def load(data: bytes) -> Masks:
    saved = torch.load(io.BytesIO(data), weights_only=True)
    return {name: mask.numpy().astype(np.bool_) for name, mask in saved.items()}


def run() -> Iterator[Row]:
    for sparsity, limit in LIMITS.items():
        yield _size(f"random ticket, {sparsity:.0%} pruned", draw(sparsity), limit)
    for sparsity in (0.8, 0.9):
        masks = draw_scaled(sparsity)
        yield _size(f"magnitude ticket, {sparsity:.0%} pruned", masks, LIMITS[sparsity])
    yield from _beside_torch(draw(COMPARED))


def _size(what: str, masks: Masks, limit: float) -> Row:
    weights = sum(mask.size for mask in masks.values())
    kept = sum(int(np.count_nonzero(mask)) for mask in masks.values())
    least = weights * entropy(kept / weights) / 8
    size = len(encode(masks))
    return Row(
        what=f"{what}, {weights / 1e6:.1f} M weights",
        ours=f"{size / 1e6:.2f} MB",
        other=f"n · H(p): {least / 1e6:.2f} MB",
        ratio=f"{size / least:.3f}x",
        limit=f"≤ {limit:.2f}",
        met=size <= limit * least,
    )


def _beside_torch(masks: Masks) -> Iterator[Row]:
    ticket = encode(masks)
    for dtype, name in ((torch.float32, "float32"), (torch.bool, "bool")):
        saved = save(masks, dtype)
        yield Row(
            what=f"random ticket, {COMPARED:.0%} pruned",
            ours=f"{len(ticket) / 1e6:.2f} MB",
            other=f"torch.save of {name} masks: {len(saved) / 1e6:.1f} MB",
            ratio=f"{len(saved) / len(ticket):.1f}x",
        )
        write = _seconds(partial(encode, masks)), _seconds(partial(save, masks, dtype))
        read = _seconds(partial(decode, ticket)), _seconds(partial(load, saved))
        yield Row(
            what="the same, CPU time to write / read in memory, hashes checked",
            ours=f"{write[0]:.2f} / {read[0]:.2f} s",
            other=f"torch, {name}: {write[1]:.2f} / {read[1]:.2f} s",
            ratio=f"{write[1] / write[0]:.1f}x / {read[1] / read[0]:.1f}x",
        )


def _seconds(function: Callable[[], object]) -> float:
    """Median CPU seconds of a call."""
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return statistics.median(times)
