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
from collections.abc import Iterable


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Return advice for an unknown name: the nearest allowed one, or else all of them."""
    names = list(allowed)
    similar = difflib.get_close_matches(name, names, n=1)
    if similar:
        return f"did you mean `{similar[0]}`?"
    return f"use one of {', '.join(names) or 'none'}"


class TrainableError(Exception):
    """Base of every error a trial raises on purpose. Its text is one line and says what to do."""


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


def describe_error(error: BaseException) -> str:
    """Return the class of an error and the first line of its message."""
    message = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
