"""A ticket in the store: the units to keep, as packed bits with one canonical hash.

Units are weights of tensors, or those of another kind of ticket (`trainables.tickets`), which need
not be known on the machine that reads it. Bits are in C order, least significant bit first (numpy's
`packbits(..., bitorder="little")`, and Arrow's layout of booleans); the unused bits of the last
byte are zero.
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
DEFAULT_KIND = "weights"
"""The kind of a ticket without one: those of the versions that knew only one kind."""
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class TicketTensor:
    name: str
    shape: tuple[int, ...]
    bits: bytes
    kept: int
    scores: bytes = b""
    """The number by which each unit was chosen: float32, little endian, in C order. Empty for a
    ticket without scores."""

    @property
    def size(self) -> int:
        """Number of units."""
        return math.prod(self.shape)

    @property
    def sha256(self) -> bytes:
        """32 bytes: the hash of `bits`."""
        return hashlib.sha256(self.bits).digest()

    @property
    def scores_sha256(self) -> bytes:
        """32 bytes: the hash of `scores`; empty if there are none."""
        return hashlib.sha256(self.scores).digest() if self.scores else b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticket:
    """Boolean arrays over a model's prunable pool, in the model's order of depth."""

    architecture: str
    """Determines the names of the tensors."""
    model_sha256: str
    """Hash of the canonical `ModelSpec` of the pruned model."""
    pool: str
    tensors: tuple[TicketTensor, ...]
    kind: str = DEFAULT_KIND

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, BoolArray],
        *,
        architecture: str,
        model_sha256: str,
        pool: str,
        kind: str = DEFAULT_KIND,
        scores: Mapping[str, FloatArray] | None = None,
    ) -> Ticket:
        """Pack boolean arrays (True = kept) in the given order, with their scores if there are
        any."""
        tensors = tuple(
            _pack(name, array, scores[name] if scores else None) for name, array in arrays.items()
        )
        return cls(
            architecture=architecture,
            model_sha256=model_sha256,
            pool=pool,
            tensors=tensors,
            kind=kind,
        )

    def arrays(self) -> dict[str, BoolArray]:
        """Return the boolean arrays by name."""
        return {tensor.name: _unpack(tensor) for tensor in self.tensors}

    def scores(self) -> dict[str, FloatArray]:
        """Return the scores by name; empty for a ticket without scores."""
        return {
            tensor.name: np.frombuffer(tensor.scores, "<f4").reshape(tensor.shape)
            for tensor in self.tensors
            if tensor.scores
        }

    @property
    def kept(self) -> int:
        return sum(tensor.kept for tensor in self.tensors)

    @property
    def total(self) -> int:
        return sum(tensor.size for tensor in self.tensors)

    @property
    def sha256(self) -> str:
        """The ticket's name: `content_hash` of its content, independent of the file format."""
        parts = (
            (tensor.name, tensor.shape, tensor.sha256 + tensor.scores_sha256)
            for tensor in self.tensors
        )
        return content_hash(self.architecture, self.model_sha256, self.pool, parts, self.kind)


def content_hash(
    architecture: str,
    model_sha256: str,
    pool: str,
    tensors: Iterable[tuple[str, tuple[int, ...], bytes]],
    kind: str = DEFAULT_KIND,
) -> str:
    """Return the SHA-256 of a ticket as 64 hex digits.

    `tensors` gives the name, the shape and the SHA-256 of the bits of each array, followed by that
    of its scores if it has any. The hash covers the format (with the kind, unless it is the
    default), architecture, model hash and pool, each preceded by its length, and for each array in
    order its name, its shape and the hashes; integers are 8 bytes, little endian. Equal tickets
    therefore have equal names under any version of Parquet, and the hash can be checked without the
    bits.
    """
    digest = hashlib.sha256()
    header = TICKET_FORMAT if kind == DEFAULT_KIND else f"{TICKET_FORMAT} {kind}"
    for text in (header, architecture, model_sha256, pool):
        digest.update(_text(text))
    for name, shape, bits_sha256 in tensors:
        digest.update(_text(name))
        digest.update(struct.pack(f"<{1 + len(shape)}q", len(shape), *shape))
        digest.update(bits_sha256)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """Overlap of the units that two arrays keep."""

    name: str
    size: int
    kept_a: int
    kept_b: int
    kept_both: int
    """Number of units kept by both."""

    @property
    def jaccard(self) -> float:
        """Jaccard index: kept by both over kept by either, 0 to 1; 1 if neither keeps any."""
        either = self.kept_a + self.kept_b - self.kept_both
        return self.kept_both / either if either else 1.0

    @property
    def chance(self) -> float:
        """Expected Jaccard index of two unrelated arrays of these densities:
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
    """Chance level of `total` for two tickets that share only the density of each layer; above
    `total.chance` if densities vary between layers in the same way."""


def compare_tickets(a: Ticket, b: Ticket) -> TicketComparison:
    """Return the overlap of two tickets, per tensor and in total.

    Raises:
        InputError: the tickets are of two kinds, or have different arrays.
    """
    if a.kind != b.kind:
        raise InputError(
            f"tickets {a.sha256[:12]} ({a.kind}) and {b.sha256[:12]} ({b.kind}) are of two kinds; "
            "compare tickets of one kind"
        )
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


def _pack(name: str, array: BoolArray, scores: FloatArray | None) -> TicketTensor:
    if array.dtype != np.bool_:
        raise TypeError(f"array {name} is {array.dtype}; it must be bool, True = kept")
    packed = b""
    if scores is not None:
        if scores.dtype != np.float32 or scores.shape != array.shape:
            raise TypeError(
                f"scores of {name} are {scores.dtype} {scores.shape}; they must be float32 "
                f"{array.shape}"
            )
        packed = scores.astype("<f4").tobytes()
    return TicketTensor(
        name=name,
        shape=array.shape,
        bits=np.packbits(array, axis=None, bitorder="little").tobytes(),
        kept=int(np.count_nonzero(array)),
        scores=packed,
    )


def _unpack(tensor: TicketTensor) -> BoolArray:
    packed = np.frombuffer(tensor.bits, np.uint8)
    flat = np.unpackbits(packed, count=tensor.size, bitorder="little").view(np.bool_)
    return flat.reshape(tensor.shape)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<q", len(data)) + data
