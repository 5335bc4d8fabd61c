"""What can go wrong outside a trial.

SweepstakesError
├── InputError           exit 2: what the user gave cannot work; nothing was started or written
│   ├── ConfigError      a key of the sweep file
│   └── MissingFile      a data, weights or sweep file that is not there
├── StoreError           exit 2: the ticket store cannot be used as it is
│   ├── StoreUnreachable no answer within the time-outs, or the wrong credentials
│   ├── StoreUnsafe      it ignores conditional PUT: two writers could overwrite each other
│   ├── StoreFull        no space left
│   ├── NotInStore       no object under that key
│   ├── Damaged          an object's content does not have the hash it is named by
│   └── Conflict         two different results for one trial key
├── RunError             exit 1: the sweep ended without all of its plan
└── MachineLost          of a trial on several machines one went away; no fault of the trial's
"""


class SweepstakesError(Exception):
    """Base of all; the text is one line that says what, where, what is allowed and the cure."""

    exit_code = 1


class InputError(SweepstakesError):
    exit_code = 2


class ConfigError(InputError):
    pass


class MissingFile(InputError):
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
