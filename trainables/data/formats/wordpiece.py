"""BERT's WordPiece tokenizer, for published data with sentences instead of token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from tokenizers import BertWordPieceTokenizer

from trainables.data.schema.examples import VocabularyInfo
from trainables.data.schema.records import ExampleRecord
from trainables.errors import DataError

_SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")
_FIRST_ORDINARY = "!"
"""The first ordinary word, as in UNITER's `v_range`; special and unused entries precede it."""
_BATCH_SIZE = 1024


class WordPiece:
    """Uncased tokenizer for a `vocab.txt` with one word per line.

    A text becomes "[CLS] words [SEP]", truncated to `max_tokens` tokens. Raises DataError if the
    file is not a vocabulary like BERT's.
    """

    def __init__(self, vocab: Path, max_tokens: int) -> None:
        advice = "give bert-base-uncased's vocab.txt"
        try:
            # A word may be a character that `splitlines` takes for the end of a line.
            lines = vocab.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except FileNotFoundError:
            raise DataError(f"{vocab}: no such file; {advice}") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{vocab}: cannot be read ({error}); {advice}") from error
        ids = {word: i for i, word in enumerate(lines)}
        missing = [word for word in _SPECIAL if word not in ids]
        if missing:
            raise DataError(f"{vocab}: has no word {' and no '.join(missing)}; {advice}")
        pad, cls, sep, mask, unknown = (ids[word] for word in _SPECIAL)
        first = ids.get(_FIRST_ORDINARY, 1 + max(pad, cls, sep, mask, unknown))
        self.vocabulary = VocabularyInfo(
            pad=pad, cls=cls, sep=sep, mask=mask, unknown=unknown, first=first, size=len(lines)
        )
        self._tokenizer = BertWordPieceTokenizer(str(vocab), lowercase=True)
        self._tokenizer.enable_truncation(max_tokens)

    def tokenize(self, records: Iterable[tuple[str, ExampleRecord]]) -> Iterator[ExampleRecord]:
        """Take pairs of a text and a record without texts; yield the records with their token
        ids."""
        remaining = iter(records)
        while batch := list(islice(remaining, _BATCH_SIZE)):
            encoded = self._tokenizer.encode_batch([text for text, _ in batch])
            for (_, record), encoding in zip(batch, encoded, strict=True):
                yield replace(record, texts=[encoding.ids])
