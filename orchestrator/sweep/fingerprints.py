"""Fingerprints of data and weights, cached so that planning again need not read the files again.

The cache holds the number, sizes and modification times of the files below each path; if these are
unchanged, the content is assumed to be unchanged. Deleting the cache costs time only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from orchestrator.errors import NotWritable
from orchestrator.files import write_atomic
from trainables.data.fingerprint import files_to_hash, fingerprint


def caching_fingerprint(cache: Path) -> Callable[[Path, tuple[str, ...]], str]:
    """Return a fingerprint function that stores its results in the JSON file `cache`."""

    def cached(path: Path, patterns: tuple[str, ...] = ()) -> str:
        if not path.exists():
            raise FileNotFoundError(path)
        entries = _read(cache)
        stat = _stat_hash(path, patterns)
        name = "\0".join([str(path), *patterns])
        entry = entries.get(name)
        if isinstance(entry, dict) and entry.get("stat") == stat:
            return entry["fingerprint"]
        result = fingerprint(path, patterns)
        _write(cache, entries | {name: {"stat": stat, "fingerprint": result}})
        return result

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


def _read(cache: Path) -> dict[str, dict[str, str]]:
    try:
        entries = json.loads(cache.read_text())
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _write(cache: Path, entries: dict[str, dict[str, str]]) -> None:
    with suppress(NotWritable):  # without a writable folder, planning again only takes longer
        write_atomic(cache, json.dumps(entries, indent=1).encode())
