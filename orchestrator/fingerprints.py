"""Fingerprints of data and weights, remembered so that planning twice reads once.

The memory holds, per path, the number, sizes and modification times of its files; when these are
what they were, so is the content. It is a cache: deleting it costs time only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from trainables.data.fingerprint import fingerprint


def remembering(memory: Path) -> Callable[[Path], str]:
    """A fingerprint function that keeps what it learnt in the JSON file `memory`."""

    def remembered(path: Path) -> str:
        known = _read(memory)
        look = _look(path)
        entry = known.get(str(path))
        if isinstance(entry, dict) and entry.get("look") == look:
            return entry["fingerprint"]
        found = fingerprint(path)
        _write(memory, known | {str(path): {"look": look, "fingerprint": found}})
        return found

    return remembered


def _look(path: Path) -> str:
    """Hash of names, sizes and times: changes whenever a file was written."""
    seen = sha256()
    for file in _files(path):
        stat = file.stat()
        seen.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return seen.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        paths = (Path(folder, name) for name in sorted(names))
        yield from (path for path in paths if path.is_file())


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
