"""Fingerprints of data and weights, remembered so that planning twice reads once.

The memory holds, per path, the number, sizes and modification times of its files; when these are
what they were, so is the content. It is a cache: deleting it costs time only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from trainables.data.fingerprint import files, fingerprint


def remembering(memory: Path) -> Callable[[Path, tuple[str, ...]], str]:
    """A fingerprint function that keeps what it learnt in the JSON file `memory`."""

    def remembered(path: Path, patterns: tuple[str, ...] = ()) -> str:
        if not path.exists():
            raise FileNotFoundError(path)
        known = _read(memory)
        look = _look(path, patterns)
        name = "\0".join([str(path), *patterns])
        entry = known.get(name)
        if isinstance(entry, dict) and entry.get("look") == look:
            return entry["fingerprint"]
        found = fingerprint(path, patterns)
        _write(memory, known | {name: {"look": look, "fingerprint": found}})
        return found

    return remembered


def by_name(path: Path, patterns: tuple[str, ...] = ()) -> str:
    """Stands in for a fingerprint where the files need not be there: enough to count trials by."""
    return sha256("\0".join([str(path), *patterns]).encode()).hexdigest()


def _look(path: Path, patterns: tuple[str, ...]) -> str:
    """Hash of names, sizes and times: changes whenever a file was written."""
    seen = sha256()
    for file in [path] if path.is_file() else files(path, patterns):
        stat = file.stat()
        seen.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return seen.hexdigest()


def _read(memory: Path) -> dict[str, dict[str, str]]:
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(memory: Path, known: dict[str, dict[str, str]]) -> None:
    draft = memory.with_suffix(f".{os.getpid()}")
    with suppress(OSError):  # a folder that cannot be written costs time only
        memory.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(known, indent=1))
        draft.replace(memory)
