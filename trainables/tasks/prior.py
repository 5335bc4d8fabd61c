"""What the text alone gives by counting: the score to beat by looking at the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainables.data.schema.examples import Ragged

Rows = NDArray[np.int64]


def numbered(*texts: Ragged) -> list[Rows]:
    """A number for every row of each of `texts`; equal texts have equal numbers, from 0 up."""
    known: dict[bytes, int] = {}
    return [
        np.array([known.setdefault(row.tobytes(), len(known)) for row in rows], np.int64)
        for rows in (each.rows(np.arange(len(each))) for each in texts)
    ]


def usual_labels(
    train: Rows, labels: Rows, weights: NDArray[np.floating], asked: Rows, classes: int
) -> Rows:
    """(len(asked),) the label of most weight that came with each text in training.

    `train` (L,) numbers the text of each of `labels` (L,), whose `weights` add up; a text of
    `asked` that is not among them gets the label of most weight of all. Ties: the smallest label.
    """
    overall = int(np.bincount(labels, weights, minlength=classes).argmax())
    pairs, place = np.unique(train * classes + labels, return_inverse=True)
    # Where an index is assigned to more than once, the last value stays: that of most weight.
    order = np.lexsort((-pairs, np.bincount(place, weights)))
    best = np.full(1 + max(train.max(initial=0), asked.max(initial=0)), overall)
    best[pairs[order] // classes] = pairs[order] % classes
    found: Rows = best[asked]
    return found


def flat(ragged: Ragged) -> NDArray[np.generic]:
    """All rows end to end."""
    return np.concatenate(ragged.rows(np.arange(len(ragged))))
