"""Masked modelling: 15 % of the words are masked as in BERT, 15 % of the regions as in UNITER."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainables.data.schema.examples import VocabularyInfo
from trainables.seeds import Rng
from trainables.tasks.base import Indices

MASK_RATE = 0.15
MASK_TOKEN_RATE, RANDOM_TOKEN_RATE = 0.8, 0.1
"""Shares of the words to predict that are replaced by [MASK] and by a random word; the rest stay.
"""

_BoolArray = NDArray[np.bool_]


def mask_words(
    ids: Indices, text_mask: _BoolArray, vocabulary: VocabularyInfo, rng: Rng
) -> tuple[Indices, _BoolArray]:
    """Return the masked copy of `ids` (B, T), and the mask (B, T) of the words to predict.

    `text_mask` (B, T) is True at tokens. The first and last token of a row, [CLS] and [SEP], are
    never masked. In a row where no word is drawn, the first word is masked.
    """
    draw = rng.uniform(*ids.shape)
    maskable = text_mask.copy()
    maskable[:, 0] = False
    maskable[np.arange(len(ids)), text_mask.sum(axis=1) - 1] = False
    masked = maskable & (draw < MASK_RATE)
    none = ~masked.any(axis=1)
    masked[none, 1], draw[none, 1] = True, 0.0
    part = draw / MASK_RATE
    random_ids = vocabulary.first + rng.integers(vocabulary.size - vocabulary.first, *ids.shape)
    replacement = np.where(
        part < MASK_TOKEN_RATE,
        vocabulary.mask,
        np.where(part < MASK_TOKEN_RATE + RANDOM_TOKEN_RATE, random_ids, ids),
    )
    return np.where(masked, replacement, ids), masked


def mask_regions(region_mask: _BoolArray, rng: Rng) -> _BoolArray:
    """Return the mask (B, N) of the regions to predict, at least one in each row.

    `region_mask` (B, N) is True at regions.
    """
    masked = region_mask & (rng.uniform(*region_mask.shape) < MASK_RATE)
    fallback = (rng.uniform(len(region_mask)) * region_mask.sum(axis=1)).astype(np.int64)
    none = np.flatnonzero(~masked.any(axis=1))
    masked[none, fallback[none]] = True
    return masked
