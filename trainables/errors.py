"""Errors of a trial.

TrainableError
├── DataError          a data file is missing, damaged, or not the one the trial was planned for
├── ModelError         a model has no such size or setting, or a value that is not allowed
├── CheckpointError    a weights file does not fit the model
├── TicketMismatch     a ticket does not fit the model that it is applied to
├── RecipeError        a recipe cannot be trained as it is written
├── InvariantError     the trial's own checks failed: a pruned weight is not zero, a run did not
│                      start from the planned weights, a weight is not finite
├── PluginError        a task, model or other part cannot be loaded, or is not the version that the
│                      trial was planned with
└── GroupError         one of the processes of a trial exited, or failed with an unexpected error

Stopped                the run was asked to end early and saved a checkpoint; not an error
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_CODE_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError),
    *(ValueError, NotImplementedError, RecursionError, SyntaxError),
)
"""Built-in errors of code that got a value that it cannot use. Subclasses are those of libraries,
such as `pyarrow.ArrowInvalid` and `UnicodeDecodeError`."""
_SHAPE_ERROR = re.compile(
    r"size mismatch|sizes? of tensors? must match|must match the (existing )?size"
    r"|shapes cannot be multiplied|is invalid for input of size"
    r"|expected .*(channel|dimension|size|dtype)|(same|different) (dtype|number of dimensions)"
    r"|not broadcastable",
    re.IGNORECASE,
)
"""What torch says of tensors that do not fit. It raises RuntimeError for these, but also for errors
of the device, of memory and of the network, which may heal."""


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Return advice for an unknown name: the nearest allowed one, or else all of them."""
    names = list(allowed)
    similar = difflib.get_close_matches(name, names, n=1)
    if similar:
        return f"did you mean `{similar[0]}`?"
    return f"use one of {', '.join(names) or 'none'}"


class TrainableError(Exception):
    """Base of every error a trial raises on purpose. Its text is one line and says what to do."""

    def __init__(self, text: str, *, repeats: bool | None = None) -> None:
        """Take the text and, where the code that raises the error knows it, whether another attempt
        ends with the same error; otherwise the function `repeats` decides."""
        super().__init__(text)
        self.repeats = repeats


class DataError(TrainableError):
    pass


class ModelError(TrainableError):
    pass


class CheckpointError(TrainableError):
    pass


class TicketMismatch(TrainableError):
    pass


class RecipeError(TrainableError):
    pass


class InvariantError(TrainableError):
    pass


class PluginError(TrainableError):
    pass


class GroupError(TrainableError):
    pass


class Stopped(Exception):
    """The run saved its state and ended early because its sink asked for it."""


def repeats(error: BaseException) -> bool:
    """Whether another attempt at a trial ends with the same error.

    The spec and its inputs decide everything that a trial computes, so an error of a value, a shape
    or a type repeats, on purpose (TrainableError) or not. What depends on the machine may heal: an
    error of the operating system other than a missing file, of memory, of a device, of the network,
    or the exit of a process.
    """
    if isinstance(error, TrainableError):
        if error.repeats is not None:
            return error.repeats
        cause = error.__cause__
        heals = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
        return not heals and not isinstance(error, GroupError)
    if isinstance(error, OSError):
        return isinstance(error, FileNotFoundError)
    if type(error) is RuntimeError:
        return _SHAPE_ERROR.search(str(error)) is not None
    return isinstance(error, _CODE_ERRORS)


def is_damage(error: Exception) -> bool:
    """Whether an error that was raised while a local file was decoded is of its content. Libraries
    such as Pillow and pyarrow raise OSError for that too, but then without an error number."""
    return not isinstance(error, OSError) or error.errno is None


def describe_error(error: BaseException) -> str:
    """Return the class of an error and the first line of its message, with the one that a colon
    announces."""
    lines = str(error).strip().splitlines()
    message = lines[0] if lines else ""
    if (
        message.endswith(":") and len(lines) > 1
    ):  # torch's `Error(s) in loading state_dict for ...:`
        message = f"{message} {lines[1].strip()}"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
