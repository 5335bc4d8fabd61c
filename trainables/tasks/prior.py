"""Question-only priors by counting: the score that a model has to beat by using the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainables.data.schema.examples import Ragged
from trainables.tasks.base import Indices


def number_texts(*texts: Ragged) -> list[Indices]:
    """Number the rows of each of `texts`, from 0 up; equal texts get equal numbers."""
    known: dict[bytes, int] = {}
    return [
        np.array([known.setdefault(row.tobytes(), len(known)) for row in rows], np.int64)
        for rows in (each.rows(np.arange(len(each))) for each in texts)
    ]


def most_frequent_labels(
    train: Indices, labels: Indices, weights: NDArray[np.floating], queries: Indices, classes: int
) -> Indices:
    """Return (len(queries),) the label of the largest total weight for each text.

    `train` (L,) has the text numbers of `labels` (L,), whose `weights` are summed. A query that is
    not in `train` gets the label of the largest weight overall. Ties: the smallest label.
    """
    overall = int(np.bincount(labels, weights, minlength=classes).argmax())
    pairs, pair_index = np.unique(train * classes + labels, return_inverse=True)
    # Where an index is assigned more than once, the last value stays: the one of largest weight.
    order = np.lexsort((-pairs, np.bincount(pair_index, weights)))
    best = np.full(1 + max(train.max(initial=0), queries.max(initial=0)), overall)
    best[pairs[order] // classes] = pairs[order] % classes
    predicted: Indices = best[queries]
    return predicted


def flatten_rows(ragged: Ragged) -> NDArray[np.generic]:
    """Concatenate all rows."""
    return np.concatenate(ragged.rows(np.arange(len(ragged))))
