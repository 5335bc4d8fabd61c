"""Errors outside a trial, with the exit code of the command that fails.

SweepstakesError
├── InputError           exit 2: the user's input cannot work; nothing was started or written
│   ├── ConfigError      a key of the sweep file is wrong
│   ├── MissingFile      a data, weights or sweep file does not exist
│   └── NotWritable      an output folder or file cannot be written
├── StoreError           exit 2: the ticket store cannot be used as it is
│   ├── StoreUnreachable it did not answer within the time-outs, or refused the credentials
│   ├── StoreUnsafe      it ignores conditional PUT: two writers could overwrite each other
│   ├── StoreFull        it has no space left
│   ├── NotInStore       it has no object under that key
│   ├── Damaged          an object's content does not match the hash in its name
│   └── Conflict         one trial key has two different results
├── RunError             exit 1: the sweep ended before its plan was complete
└── MachineLost          exit 1: a trial on several machines lost one of them; not a trial failure
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from trainables.errors import TrainableError, describe_error
from trainables.errors import suggest as suggest


class SweepstakesError(Exception):
    """Base class. The message is one line: what is wrong, where, what is allowed, what to do."""

    exit_code = 1


class InputError(SweepstakesError):
    exit_code = 2


class ConfigError(InputError):
    pass


class MissingFile(InputError):
    pass


class NotWritable(InputError):
    pass


class StoreError(SweepstakesError):
    exit_code = 2


class StoreUnreachable(StoreError):
    pass


class StoreUnsafe(StoreError):
    pass


class StoreFull(StoreError):
    pass


class NotInStore(StoreError):
    pass


class Damaged(StoreError):
    pass


class Conflict(StoreError):
    pass


class RunError(SweepstakesError):
    pass


class MachineLost(SweepstakesError):
    pass


@contextmanager
def outside_code(what: str) -> Iterator[None]:
    """Turn an exception of code from outside the package into a ConfigError of one line, which
    begins with `what` and names the line that raised it."""
    try:
        yield
    except (SweepstakesError, TrainableError):
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{what}: {describe_error(error)} at line {frame.lineno} in {frame.name}; correct it"
        ) from error
