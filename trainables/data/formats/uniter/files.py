"""LMDB environments: opened for reading on any media, written whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from trainables.errors import DataError

_MAP_BYTES = 2**40
"""The most a written environment may grow to: address space, not disk. As UNITER's code has it."""
_COMMIT_BYTES = 2**24
"""What a writer gathers before it commits; until then LMDB holds it in memory."""
_CURE = "download or write this database again"


def opened(folder: Path) -> lmdb.Environment:
    """For reading, without a lock file; DataError if it is missing, damaged or cut short.

    LMDB opens no environment twice in one process: close it before the next opening.
    """
    file = folder / "data.mdb"
    try:
        size = file.stat().st_size
        env = lmdb.open(str(folder), readonly=True, create=False, lock=False)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; {_CURE}") from None
    except (lmdb.Error, OSError) as error:
        raise DataError(f"{file}: cannot be opened ({error}); {_CURE}") from error
    # A page past the end of the file would end the process with a bus error.
    needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if size < needed:
        env.close()
        cure = f"{_CURE}, or compact the original with `mdb_copy -c`"
        raise DataError(f"{file}: has {size:,} of {needed:,} bytes, it is cut short; {cure}")
    return env


@contextmanager
def written(folder: Path) -> Iterator[Callable[[str, bytes], None]]:
    """put(name, value) into a new environment, which must not exist; memory holds
    `_COMMIT_BYTES` of them and no more. The same calls give the same bytes."""
    if folder.exists():
        raise DataError(f"{folder}: is there already; remove it first")
    folder.mkdir(parents=True)
    env = lmdb.open(str(folder), map_size=_MAP_BYTES, lock=False, sync=False)
    transactions = [env.begin(write=True)]
    gathered = 0

    def put(name: str, value: bytes) -> None:
        nonlocal gathered
        if not transactions[0].put(name.encode(), value, overwrite=False):
            raise DataError(f"{folder}: {name} comes twice; give every record its own name")
        gathered += len(value)
        if gathered >= _COMMIT_BYTES:
            transactions[0].commit()
            transactions[0] = env.begin(write=True)
            gathered = 0

    try:
        yield put
        transactions[0].commit()
        env.sync(True)
    finally:
        env.close()
