"""Read and write JSON files, in full or entry by entry: lists and mappings of millions of entries
are never in memory all at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any

from trainables.errors import DataError

_CHUNK = 2**20
"""Characters to read at a time; an entry may be longer."""
_SPACE = " \t\r\n"
_AFTER = frozenset(_SPACE + ",:]}")
"""Characters that may follow a value."""


def read_json(file: Path, expected_type: type, advice: str) -> Any:
    """Load a file. Raises DataError if its top level is not of `expected_type` (dict or list)."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; {advice}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); {advice}") from error
    if not isinstance(content, expected_type):
        raise DataError(
            f"{file}: holds a {type(content).__name__}, not a {expected_type.__name__}; {advice}"
        )
    return content


def write_json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


def write_list(file: Path, entries: Iterable[Any]) -> int:
    """Write a list with one entry per line, as the entries are produced; return their number."""
    file.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with file.open("w", encoding="utf-8") as stream:
        for count, entry in enumerate(entries, 1):
            stream.write(("[\n" if count == 1 else ",\n") + json.dumps(entry))
        stream.write("\n]\n" if count else "[]\n")
    return count


def read_list(file: Path, advice: str) -> Iterator[Any]:
    """Yield the entries of a list. Raises DataError when it reaches damage."""
    yield from _entries(file, "[]", advice)


def read_pairs(file: Path, advice: str) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a mapping in the file's order. Raises DataError when it reaches
    damage."""
    yield from _entries(file, "{}", advice)


def _entries(file: Path, brackets: str, advice: str) -> Iterator[Any]:
    try:
        with file.open(encoding="utf-8") as stream:
            yield from _Reader(iter(lambda: stream.read(_CHUNK), "")).entries(brackets)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; {advice}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); {advice}") from error


class _Reader:
    def __init__(self, chunks: Iterator[str]) -> None:
        self._chunks = chunks
        self._text = ""
        self._position = 0
        self._count = 0
        self._decode = JSONDecoder().raw_decode

    def entries(self, brackets: str) -> Iterator[Any]:
        opening, closing = brackets[0], brackets[1]
        self._expect(opening)
        if self._peek() == closing:
            self._expect(closing)
        else:
            separator = ","
            while separator == ",":
                yield self._pair() if opening == "{" else self._value()
                self._count += 1
                separator = self._expect("," + closing)
        if self._peek():
            raise ValueError("extra data after its end")

    def _pair(self) -> tuple[str, Any]:
        key = self._value()
        self._expect(":")
        return key, self._value()

    def _peek(self) -> str:
        """Return the next character that is not white space; empty at the end of the file."""
        while True:
            while self._position < len(self._text) and self._text[self._position] in _SPACE:
                self._position += 1
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_chunk():
                return ""

    def _expect(self, allowed: str) -> str:
        char = self._peek()
        if not char or char not in allowed:
            what = f"{char!r}" if char else "its end"
            raise ValueError(
                f"{what} where one of {allowed!r} is expected, after {self._count} entries"
            )
        self._position += 1
        return char

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decode(self._text, self._position)
            except JSONDecodeError as error:
                if not self._read_chunk():
                    raise ValueError(f"{error.msg} after {self._count} entries") from error
                continue
            # A number may continue in the next chunk: "1" is complete, but so are "12" and "1.5".
            if self._text[end : end + 1] not in _AFTER and self._read_chunk():
                continue
            self._position = end
            return value

    def _read_chunk(self) -> bool:
        chunk = next(self._chunks, "")
        if chunk:
            self._text = self._text[self._position :] + chunk
            self._position = 0
        return bool(chunk)
