"""A ticket: the weights to keep of each tensor, as packed bits with one canonical hash.

Bits are in C order, least significant bit first (numpy's `packbits(..., bitorder="little")`, and
Arrow's layout of booleans); the unused bits of the last byte are zero.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InputError

TICKET_FORMAT = "sweepstakes-ticket/1"
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class TicketTensor:
    name: str
    shape: tuple[int, ...]
    bits: bytes
    kept: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def sha256(self) -> bytes:
        """32 bytes: the hash of `bits`."""
        return hashlib.sha256(self.bits).digest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticket:
    """Masks over a model's prunable pool, in the model's order of depth."""

    architecture: str
    """Determines the names of the tensors."""
    model_sha256: str
    """Hash of the canonical `ModelSpec` of the pruned model."""
    pool: str
    tensors: tuple[TicketTensor, ...]

    @classmethod
    def from_masks(
        cls, masks: Mapping[str, BoolArray], *, architecture: str, model_sha256: str, pool: str
    ) -> Ticket:
        """Pack boolean masks (True = kept), one per tensor, in the given order."""
        tensors = tuple(_pack(name, mask) for name, mask in masks.items())
        return cls(architecture=architecture, model_sha256=model_sha256, pool=pool, tensors=tensors)

    def masks(self) -> dict[str, BoolArray]:
        """Return the masks as boolean arrays with the tensors' shapes."""
        return {tensor.name: _unpack(tensor) for tensor in self.tensors}

    @property
    def kept(self) -> int:
        return sum(tensor.kept for tensor in self.tensors)

    @property
    def total(self) -> int:
        return sum(tensor.size for tensor in self.tensors)

    @property
    def sha256(self) -> str:
        """The ticket's name: `content_hash` of its content, independent of the file format."""
        parts = ((tensor.name, tensor.shape, tensor.sha256) for tensor in self.tensors)
        return content_hash(self.architecture, self.model_sha256, self.pool, parts)


def content_hash(
    architecture: str,
    model_sha256: str,
    pool: str,
    tensors: Iterable[tuple[str, tuple[int, ...], bytes]],
) -> str:
    """Return the SHA-256 of a ticket as 64 hex digits.

    `tensors` gives the name, the shape and the SHA-256 of the bits of each tensor. The hash covers
    the format, architecture, model hash and pool, each preceded by its length, and for each tensor
    in order its name, its shape and the hash of its bits; integers are 8 bytes, little endian.
    Equal tickets therefore have equal names under any version of Parquet, and the hash can be
    checked without the bits.
    """
    digest = hashlib.sha256()
    for text in (TICKET_FORMAT, architecture, model_sha256, pool):
        digest.update(_text(text))
    for name, shape, bits_sha256 in tensors:
        digest.update(_text(name))
        digest.update(struct.pack(f"<{1 + len(shape)}q", len(shape), *shape))
        digest.update(bits_sha256)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """Overlap of the weights that two masks keep."""

    name: str
    size: int
    kept_a: int
    kept_b: int
    kept_both: int
    """Number of weights kept by both masks."""

    @property
    def jaccard(self) -> float:
        """Jaccard index: kept by both over kept by either, 0 to 1; 1 if neither keeps any."""
        either = self.kept_a + self.kept_b - self.kept_both
        return self.kept_both / either if either else 1.0

    @property
    def chance(self) -> float:
        """Expected Jaccard index of two unrelated masks of these densities:
        `a*b / (a + b - a*b)`."""
        if not self.kept_a and not self.kept_b:
            return 1.0
        a, b = self.kept_a / self.size, self.kept_b / self.size
        return a * b / (a + b - a * b)


@dataclass(frozen=True, kw_only=True, slots=True)
class TicketComparison:
    layers: tuple[Overlap, ...]
    total: Overlap
    layerwise_chance: float
    """Chance level of `total` for two masks that share only the density of each layer; above
    `total.chance` if densities vary between layers in the same way."""


def compare_tickets(a: Ticket, b: Ticket) -> TicketComparison:
    """Return the overlap of two tickets, per tensor and in total.

    Raises:
        InputError: the tickets mask different tensors.
    """
    if [(t.name, t.shape) for t in a.tensors] != [(t.name, t.shape) for t in b.tensors]:
        raise InputError(
            f"tickets {a.sha256[:12]} ({a.architecture}, {a.pool}) and {b.sha256[:12]} "
            f"({b.architecture}, {b.pool}) mask different tensors; compare tickets of one model "
            "and pool"
        )
    layers = tuple(_overlap(*pair) for pair in zip(a.tensors, b.tensors, strict=True))
    total = Overlap(
        name="total",
        size=a.total,
        kept_a=a.kept,
        kept_b=b.kept,
        kept_both=sum(layer.kept_both for layer in layers),
    )
    expected = sum(layer.kept_a * layer.kept_b / layer.size for layer in layers if layer.size)
    either = total.kept_a + total.kept_b - expected
    return TicketComparison(
        layers=layers, total=total, layerwise_chance=expected / either if either else 1.0
    )


def count_bits(*operands: bytes) -> int:
    """Return the number of bits set in all of `operands`, which have equal length."""
    return sum(_count_words(words) for words in _words(operands))


def _words(operands: tuple[bytes, ...]) -> Iterator[list[npt.NDArray[np.unsignedinteger]]]:
    """The operands as 64-bit words (five times faster to count than bytes), then the rest."""
    split = len(operands[0]) // 8 * 8
    yield [np.frombuffer(data, "<u8", count=split // 8) for data in operands]
    yield [np.frombuffer(data, np.uint8, offset=split) for data in operands if len(data) > split]


def _count_words(operands: list[npt.NDArray[np.unsignedinteger]]) -> int:
    if not operands:
        return 0
    common = operands[0] if len(operands) == 1 else np.bitwise_and.reduce(operands)
    return int(np.bitwise_count(common).sum(dtype=np.int64))


def _overlap(a: TicketTensor, b: TicketTensor) -> Overlap:
    both = count_bits(a.bits, b.bits)
    return Overlap(name=a.name, size=a.size, kept_a=a.kept, kept_b=b.kept, kept_both=both)


def _pack(name: str, mask: BoolArray) -> TicketTensor:
    if mask.dtype != np.bool_:
        raise TypeError(f"mask of {name} is {mask.dtype}; it must be bool, True = kept")
    bits = np.packbits(mask, axis=None, bitorder="little").tobytes()
    return TicketTensor(name=name, shape=mask.shape, bits=bits, kept=int(np.count_nonzero(mask)))


def _unpack(tensor: TicketTensor) -> BoolArray:
    packed = np.frombuffer(tensor.bits, np.uint8)
    flat = np.unpackbits(packed, count=tensor.size, bitorder="little").view(np.bool_)
    return flat.reshape(tensor.shape)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<q", len(data)) + data
