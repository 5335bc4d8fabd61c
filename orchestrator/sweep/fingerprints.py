"""Fingerprints and headers of data and weights, cached so that planning again need not read the
files again.

The cache holds the number, sizes and modification times of the files below each path; if these are
unchanged, the content is assumed to be unchanged. Deleting the cache costs time only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

from orchestrator.errors import NotWritable
from orchestrator.files import write_atomic
from trainables.data.fingerprint import files_to_hash, fingerprint

HeaderReader: TypeAlias = Callable[[Path, tuple[str, ...], str, Callable[[], Any]], Any]
"""Takes a path and the patterns of the files below it, what they are read for, and a function that
reads them and returns what JSON can hold. Returns its result, perhaps of an earlier call."""


def caching_fingerprint(cache: Path) -> Callable[[Path, tuple[str, ...]], str]:
    """Return a fingerprint function that stores its results in the JSON file `cache`."""

    def cached(path: Path, patterns: tuple[str, ...] = ()) -> str:
        if not path.exists():
            raise FileNotFoundError(path)
        name = "\0".join([str(path), *patterns])
        stat = _stat_hash(path, patterns)
        return str(_once(cache, name, stat, "fingerprint", lambda: fingerprint(path, patterns)))

    return cached


def caching_headers(cache: Path) -> HeaderReader:
    """Return a function that reads headers and stores what they tell in the JSON file `cache`. It
    stores no errors: a file that was refused is read again."""

    def cached(path: Path, patterns: tuple[str, ...], purpose: str, read: Callable[[], Any]) -> Any:
        name = "\0".join([str(path), *patterns, purpose])
        return _once(cache, name, _stat_hash(path, patterns), "header", read)

    return cached


def path_fingerprint(path: Path, patterns: tuple[str, ...] = ()) -> str:
    """Return a hash of the path, without reading files: enough to count trials."""
    return sha256("\0".join([str(path), *patterns]).encode()).hexdigest()


def _stat_hash(path: Path, patterns: tuple[str, ...]) -> str:
    """Return a hash of names, sizes and times, which changes whenever a file is written."""
    stats = sha256()
    for file in [path] if path.is_file() else files_to_hash(path, patterns):
        stat = file.stat()
        stats.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return stats.hexdigest()


def _once(cache: Path, name: str, stat: str, key: str, compute: Callable[[], Any]) -> Any:
    """Return the result `key` of the cache's entry `name`; compute it if the entry is missing or of
    other files."""
    entries = _read(cache)
    entry = entries.get(name)
    if isinstance(entry, dict) and entry.get("stat") == stat and key in entry:
        return entry[key]
    result = compute()
    _write(cache, entries | {name: {"stat": stat, key: result}})
    return result


def _read(cache: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads(cache.read_text())
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _write(cache: Path, entries: dict[str, dict[str, Any]]) -> None:
    with suppress(NotWritable):  # without a writable folder, planning again only takes longer
        write_atomic(cache, json.dumps(entries, indent=1).encode())
