"""Open LMDB environments for reading, also on read-only media, and create new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from trainables.errors import DataError

_MAP_BYTES = 2**40
"""Maximum size of a new environment, as in UNITER's code. It takes address space, not disk."""
_COMMIT_BYTES = 2**24
"""A writer commits after this many bytes; until then LMDB has them in memory."""
_ADVICE = "download or write this database again"


def open_environment(folder: Path) -> lmdb.Environment:
    """Open an environment for reading, without a lock file.

    LMDB cannot open an environment twice in one process: close it first. Raises DataError if it is
    missing, damaged or truncated.
    """
    file = folder / "data.mdb"
    try:
        size = file.stat().st_size
        env = lmdb.open(str(folder), readonly=True, create=False, lock=False)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; {_ADVICE}") from None
    except (lmdb.Error, OSError) as error:
        raise DataError(f"{file}: cannot be opened ({error}); {_ADVICE}") from error
    # Reading a page past the end of the file would kill the process with a bus error.
    needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if size < needed:
        env.close()
        advice = f"{_ADVICE}, or compact the original with `mdb_copy -c`"
        raise DataError(f"{file}: has {size:,} of {needed:,} bytes, it is truncated; {advice}")
    return env


def find(transaction: lmdb.Transaction, folder: Path, name: str) -> Any:
    """Return the value of `name` in the environment at `folder`, None if it has none. Raises
    DataError if a page on the way to it is damaged."""
    try:
        return transaction.get(name.encode())
    except lmdb.Error as error:
        what = f"the record {name} cannot be found ({error})"
        raise DataError(f"{folder / 'data.mdb'}: {what}; {_ADVICE}") from error


@contextmanager
def create_environment(folder: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Create an environment and yield its `put(name, value)`.

    At most `_COMMIT_BYTES` of values are in memory. The same calls give the same bytes. Raises
    DataError if the folder exists or a name is repeated.
    """
    if folder.exists():
        raise DataError(f"{folder}: already exists; remove it first")
    folder.mkdir(parents=True)
    env = lmdb.open(str(folder), map_size=_MAP_BYTES, lock=False, sync=False)
    transactions = [env.begin(write=True)]
    pending_bytes = 0

    def put(name: str, value: bytes) -> None:
        nonlocal pending_bytes
        if not transactions[0].put(name.encode(), value, overwrite=False):
            raise DataError(f"{folder}: {name} is repeated; give every record its own name")
        pending_bytes += len(value)
        if pending_bytes >= _COMMIT_BYTES:
            transactions[0].commit()
            transactions[0] = env.begin(write=True)
            pending_bytes = 0

    try:
        yield put
        transactions[0].commit()
        env.sync(True)
    finally:
        env.close()
