"""Size of a ticket in the store, and the time to write and read it.

Random tickets are masks over the 85.5 M weights of BERT-base, each weight kept with the same
probability. They have no structure, so n * H(p) bits is the minimum for any code. zstd uses
Huffman codes on bytes, which alone cost 1.4 % at 80 %; a row group per tensor costs 1 % more. A
magnitude ticket of layers whose weights differ in scale, as in a trained network, is smaller:
layers differ in density, and n * H(p) uses only the mean.
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

from orchestrator.plan.counts import binary_entropy
from orchestrator.store import parquet
from orchestrator.store.ticket import Ticket
from tests.benchmarks.pruning import shapes
from tests.benchmarks.size import sized
from tests.benchmarks.table import Row
from trainables.pruning import magnitude
from trainables.spec import ModelSpec, PruneSpec

LIMITS = {0.3: 1.02, 0.5: 1.02, 0.7: 1.02, 0.8: 1.02, 0.9: 1.10}
"""By sparsity: the maximum size relative to n * H(p) / 8 bytes."""
COMPARED_SPARSITY = 0.7
ROUNDS = sized(5, smoke=1)
Masks = dict[str, NDArray[np.bool_]]


def random_masks(sparsity: float) -> Masks:
    rng = np.random.default_rng(0)
    return {
        f"encoder.{number}.weight": rng.random(shape, np.float32) >= sparsity
        for number, shape in enumerate(shapes())
    }


def magnitude_masks(sparsity: float) -> Masks:
    """Keep the largest of normal weights whose standard deviation differs by up to 2x between
    tensors."""
    rng = np.random.default_rng(0)
    weights = {
        f"encoder.{number}.weight": torch.from_numpy(
            rng.standard_normal(shape, np.float32) * np.float32(rng.uniform(0.02, 0.04))
        )
        for number, shape in enumerate(shapes())
    }
    spec = PruneSpec(model=ModelSpec(architecture="uniter"), sparsity=sparsity)
    return magnitude.prune(spec, weights, None, None)


def encode(masks: Masks) -> bytes:
    ticket = Ticket.from_arrays(
        masks, architecture="uniter", model_sha256="0" * 64, pool="encoder+pooler"
    )
    return parquet.encode_ticket(ticket)


def decode(data: bytes) -> Masks:
    sha256 = pq.read_metadata(io.BytesIO(data)).metadata[b"content_sha256"].decode()
    return parquet.decode_ticket(data, sha256, where="benchmark").arrays()


def save(masks: Masks, dtype: torch.dtype) -> bytes:
    file = io.BytesIO()
    torch.save({name: torch.from_numpy(mask).to(dtype) for name, mask in masks.items()}, file)
    return file.getvalue()


def load(data: bytes) -> Masks:
    saved = torch.load(io.BytesIO(data), weights_only=True)
    return {name: mask.numpy().astype(np.bool_) for name, mask in saved.items()}


def run() -> Iterator[Row]:
    for sparsity, limit in LIMITS.items():
        yield _size(f"random ticket, {sparsity:.0%} pruned", random_masks(sparsity), limit)
    for sparsity in (0.8, 0.9):
        masks = magnitude_masks(sparsity)
        yield _size(f"magnitude ticket, {sparsity:.0%} pruned", masks, LIMITS[sparsity])
    yield from _compare_with_torch_save(random_masks(COMPARED_SPARSITY))


def _size(what: str, masks: Masks, limit: float) -> Row:
    weights = sum(mask.size for mask in masks.values())
    kept = sum(int(np.count_nonzero(mask)) for mask in masks.values())
    min_bytes = weights * binary_entropy(kept / weights) / 8
    size = len(encode(masks))
    return Row(
        what=f"{what}, {weights / 1e6:.1f} M weights",
        ours=f"{size / 1e6:.2f} MB",
        other=f"n · H(p): {min_bytes / 1e6:.2f} MB",
        ratio=f"{size / min_bytes:.3f}x",
        limit=f"≤ {limit:.2f}",
        met=size <= limit * min_bytes,
    )


def _compare_with_torch_save(masks: Masks) -> Iterator[Row]:
    ticket = encode(masks)
    for dtype, name in ((torch.float32, "float32"), (torch.bool, "bool")):
        saved = save(masks, dtype)
        yield Row(
            what=f"random ticket, {COMPARED_SPARSITY:.0%} pruned",
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
    """Return the median CPU seconds of a call."""
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return statistics.median(times)
