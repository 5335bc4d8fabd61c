"""What masked modelling hides: 15 % of the words, as BERT, or 15 % of the regions, as UNITER."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainables.data.schema.examples import Vocabulary
from trainables.seeds import Chance

SHARE = 0.15
AS_MASK, AS_RANDOM = 0.8, 0.1
"""Of the words to be predicted: shown as [MASK], shown as any word; the rest as they are."""

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


def mask_words(ids: Ids, text: Mask, vocabulary: Vocabulary, chance: Chance) -> tuple[Ids, Mask]:
    """What the model sees of `ids` (B, T), and which of them it is to predict (B, T).

    `text` (B, T) is True at tokens. A row's first and last token, [CLS] and [SEP], stay; where
    none is drawn, the first word is masked.
    """
    draw = chance.uniform(*ids.shape)
    words = text.copy()
    words[:, 0] = False
    words[np.arange(len(ids)), text.sum(axis=1) - 1] = False
    hidden = words & (draw < SHARE)
    none = ~hidden.any(axis=1)
    hidden[none, 1], draw[none, 1] = True, 0.0
    part = draw / SHARE
    anything = vocabulary.first + chance.below(vocabulary.size - vocabulary.first, *ids.shape)
    shown = np.where(
        part < AS_MASK, vocabulary.mask, np.where(part < AS_MASK + AS_RANDOM, anything, ids)
    )
    return np.where(hidden, shown, ids), hidden


def mask_regions(regions: Mask, chance: Chance) -> Mask:
    """Which of the regions (B, N), True where there is one, to hide (B, N): one at least."""
    hidden = regions & (chance.uniform(*regions.shape) < SHARE)
    any_one = (chance.uniform(len(regions)) * regions.sum(axis=1)).astype(np.int64)
    none = np.flatnonzero(~hidden.any(axis=1))
    hidden[none, any_one[none]] = True
    return hidden
