"""What can go wrong inside a trial.

TrainableError
├── DataError          a data file is missing, damaged, or not the one the trial was planned for
├── CheckpointError    a weights file does not fit the model
├── TicketMismatch     a ticket does not fit the model it is laid on
├── RecipeError        a recipe that cannot be trained as it is written
├── InvariantError     the trial's own checks failed: a pruned weight moved, a reset did not reset,
│                      a weight to be ranked is not a number
└── GroupError         one of the processes that train a trial together died, or failed in a way
                       that nobody foresaw

Stopped                the run was asked to end early, and left a checkpoint: no error of the trial
"""


class TrainableError(Exception):
    """Base of every error a trial raises on purpose; its text is one line and says the cure."""


class DataError(TrainableError):
    pass


class CheckpointError(TrainableError):
    pass


class TicketMismatch(TrainableError):
    pass


class RecipeError(TrainableError):
    pass


class InvariantError(TrainableError):
    pass


class GroupError(TrainableError):
    pass


class Stopped(Exception):
    """The run did as its sink asked: it saved its state and ended before its time."""
