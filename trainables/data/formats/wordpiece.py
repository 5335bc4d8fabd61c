"""BERT's WordPiece, for the published data that holds sentences instead of token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from tokenizers import BertWordPieceTokenizer

from trainables.data.schema.examples import Vocabulary
from trainables.data.schema.records import Record
from trainables.errors import DataError

_SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")
_FIRST_WORD = "!"
"""Ordinary words start here, as in UNITER's `v_range`; rarer are special and unused ones."""
_AT_A_TIME = 1024


class WordPiece:
    """Uncased tokens of a `vocab.txt`, one word per line; DataError if it is none of BERT's.

    A text becomes "[CLS] words [SEP]", cut to at most `longest` tokens.
    """

    def __init__(self, vocab: Path, longest: int) -> None:
        cure = "give bert-base-uncased's vocab.txt"
        try:
            words = vocab.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise DataError(f"{vocab}: no such file; {cure}") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{vocab}: cannot be read ({error}); {cure}") from error
        numbers = {word: number for number, word in enumerate(words)}
        missing = [word for word in _SPECIAL if word not in numbers]
        if missing:
            raise DataError(f"{vocab}: has no word {' and no '.join(missing)}; {cure}")
        pad, cls, sep, mask, unknown = (numbers[word] for word in _SPECIAL)
        first = numbers.get(_FIRST_WORD, 1 + max(pad, cls, sep, mask, unknown))
        self.vocabulary = Vocabulary(
            pad=pad, cls=cls, sep=sep, mask=mask, unknown=unknown, first=first, size=len(words)
        )
        self._tokenizer = BertWordPieceTokenizer(str(vocab), lowercase=True)
        self._tokenizer.enable_truncation(longest)

    def records(self, untold: Iterable[tuple[str, Record]]) -> Iterator[Record]:
        """Records that lack their only text, and that text; as they come."""
        untold = iter(untold)
        while block := list(islice(untold, _AT_A_TIME)):
            encoded = self._tokenizer.encode_batch([text for text, _ in block])
            for (_, record), found in zip(block, encoded, strict=True):
                yield replace(record, texts=[found.ids])
