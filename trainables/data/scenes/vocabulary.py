"""The vocabulary: a `vocab.txt` in BERT's layout, without word pieces."""

from __future__ import annotations

import re
from pathlib import Path

from trainables.data.scenes.world import COLORS, SHAPES

VOCABULARY_SIZE = 128
"""Number of entries, unused ones included; it equals the vocabulary size of the tiny models."""
PAD, UNKNOWN, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_NAMES = (*SHAPES, *(f"{s}es" if s[-1] in "sx" else f"{s}s" for s in SHAPES), *COLORS)
_WORDS = (
    *("!", ",", ".", "?", "0", "1", "2", "a", "above", "an", "and", "are", "because", "below"),
    *("big", "blank", "both", "color", "five", "four", "how", "image", "images", "in", "is"),
    *("it", "left", "many", "more", "no", "of", "on", "one", "or", "pattern", "plain", "right"),
    *("same", "shape", "show", "shows", "side", "six", "size", "small", "striped", "the"),
    *("there", "thing", "things", "three", "two", "what", "where", "which", "yes"),
)
_ORDINARY = tuple(sorted({*_WORDS, *_NAMES}))
_UNUSED = tuple(f"[unused{k}]" for k in range(VOCABULARY_SIZE - len(SPECIAL) - len(_ORDINARY)))
VOCABULARY = (PAD, *_UNUSED, *SPECIAL[1:], *_ORDINARY)
"""In the order of ids; the ordinary words are last."""
FIRST_WORD_ID = VOCABULARY.index(_ORDINARY[0])
"""Lowest id of an ordinary word."""
TAGS = tuple(f"[{shape}]" for shape in SHAPES)
"""VCR's tags of things. Their ids follow the vocabulary's; the task adds rows for them."""
_IDS = {word: number for number, word in enumerate((*VOCABULARY, *TAGS))}
_TOKEN = re.compile(r"\[\w+\]|\w+|[^\w\s]")


def encode_text(text: str) -> list[int]:
    """Return the ids of the words and punctuation marks, without [CLS] and [SEP]. Raises KeyError
    for an unknown word."""
    return [_IDS[token] for token in _TOKEN.findall(text)]


def write_vocabulary(file: Path) -> None:
    """Write a `vocab.txt` like BERT's, one word per line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
