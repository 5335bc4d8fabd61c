"""Sizes of a task's data, and whether a model can read them.

A worker checks them before it trains, and planning checks what the headers of the files tell. This
module imports nothing heavy, because planning reads it too.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainables.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSizes:
    words: int
    """Number of token ids that the texts may contain."""
    longest_text: int
    """In tokens, [CLS] and [SEP] included."""
    region_dims: tuple[int, ...]
    """Numbers of features per region that occur; 0 for pixels."""


def check_sizes(sizes: DataSizes, model: object, origin: object) -> None:
    """Raise DataError unless a model can read data of these sizes, which are from `origin`.

    `model` is a backbone or its configuration. Only the attributes of `trainables.models.base`'s
    `Backbone` that it has are compared: a backbone from outside may set others than its
    configuration has.
    """
    words = getattr(model, "vocab_size", None)
    if words is not None and sizes.words > words:
        raise DataError(
            f"{origin}: a vocabulary of {sizes.words} words, the model has {words}; raise its"
            f" vocab_size by {sizes.words - words}"
        )
    longest = getattr(model, "max_text", None)
    if longest is not None and sizes.longest_text > longest:
        raise DataError(
            f"{origin}: a text of {sizes.longest_text} tokens, the model takes {longest}; raise its"
            " max_position_embeddings"
        )
    region_dim = getattr(model, "region_dim", None)
    for dim in sizes.region_dims:
        if region_dim is not None and dim != region_dim:
            raise DataError(
                f"{origin}: region features of {dim} numbers, the model takes {region_dim} (0:"
                " pixels); set its region_dim"
            )
