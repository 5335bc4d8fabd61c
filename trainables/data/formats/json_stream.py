"""JSON files, whole or piece by piece: lists and mappings of millions of entries never lie in
memory at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any

from trainables.errors import DataError

_CHUNK = 2**20
"""Characters read at a time; an entry may be longer."""
_SPACE = " \t\r\n"
_AFTER = frozenset(_SPACE + ",:]}")
"""What may follow a value."""


def read_json(file: Path, kind: type, cure: str) -> Any:
    """The whole file, whose top is a `kind` (dict or list); else DataError."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; {cure}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); {cure}") from error
    if not isinstance(found, kind):
        raise DataError(f"{file}: holds a {type(found).__name__}, not a {kind.__name__}; {cure}")
    return found


def write_json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


def write_list(file: Path, entries: Iterable[Any]) -> int:
    """A list, one entry per line, written as they come; how many."""
    file.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with file.open("w", encoding="utf-8") as stream:
        for count, entry in enumerate(entries, 1):
            stream.write(("[\n" if count == 1 else ",\n") + json.dumps(entry))
        stream.write("\n]\n" if count else "[]\n")
    return count


def read_list(file: Path, cure: str) -> Iterator[Any]:
    """The entries of a list. Raises DataError, at the place of the damage."""
    yield from _entries(file, "[]", cure)


def read_pairs(file: Path, cure: str) -> Iterator[tuple[str, Any]]:
    """The entries of a mapping, in the file's order. Raises DataError, at the place of the
    damage."""
    yield from _entries(file, "{}", cure)


def _entries(file: Path, brackets: str, cure: str) -> Iterator[Any]:
    try:
        with file.open(encoding="utf-8") as stream:
            yield from _Reader(iter(lambda: stream.read(_CHUNK), "")).entries(brackets)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; {cure}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); {cure}") from error


class _Reader:
    def __init__(self, chunks: Iterator[str]) -> None:
        self._chunks = chunks
        self._text = ""
        self._at = 0
        self._count = 0
        self._decode = JSONDecoder().raw_decode

    def entries(self, brackets: str) -> Iterator[Any]:
        opening, closing = brackets[0], brackets[1]
        self._expect(opening)
        if self._peek() == closing:
            self._expect(closing)
        else:
            sign = ","
            while sign == ",":
                yield self._pair() if opening == "{" else self._value()
                self._count += 1
                sign = self._expect("," + closing)
        if self._peek():
            raise ValueError("something follows its end")

    def _pair(self) -> tuple[str, Any]:
        key = self._value()
        self._expect(":")
        return key, self._value()

    def _peek(self) -> str:
        """The next sign that is no space; empty at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _expect(self, allowed: str) -> str:
        found = self._peek()
        if not found or found not in allowed:
            what = f"{found!r}" if found else "its end"
            raise ValueError(
                f"{what} where one of {allowed!r} belongs, after {self._count} entries"
            )
        self._at += 1
        return found

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except JSONDecodeError as error:
                if not self._more():
                    raise ValueError(f"{error.msg} after {self._count} entries") from error
                continue
            # A number may go on in the next chunk: "1" is whole, but so are "12" and "1.5".
            if self._text[end : end + 1] not in _AFTER and self._more():
                continue
            self._at = end
            return value

    def _more(self) -> bool:
        chunk = next(self._chunks, "")
        if chunk:
            self._text = self._text[self._at :] + chunk
            self._at = 0
        return bool(chunk)
