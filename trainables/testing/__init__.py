"""Contract suites: what every part from inside or outside the package must do.

The author of a part calls the suite of its kind from a test, for example

    from trainables.testing import check_model_contract

    def test_my_model() -> None:
        check_model_contract("my_model", "tiny")

A part in a file is added first, by `install([read_user_module(Path("my_model.py"))])` of
`trainables.user_modules`. A suite raises AssertionError with what is wrong. The built-in parts are
tested with the same suites. `orchestrator.testing` has those of ticket sources and strategies. This
package may import everything in `trainables` but `run_group`.
"""

from __future__ import annotations

from trainables.testing.augmentations import check_augmentation_contract
from trainables.testing.formats import check_format_contract
from trainables.testing.models import check_model_contract
from trainables.testing.optimizers import check_optimizer_contract
from trainables.testing.pruners import check_pruner_contract
from trainables.testing.tasks import check_task_contract
from trainables.testing.ticket_kinds import check_ticket_kind_contract

__all__ = [
    "check_augmentation_contract",
    "check_format_contract",
    "check_model_contract",
    "check_optimizer_contract",
    "check_pruner_contract",
    "check_task_contract",
    "check_ticket_kind_contract",
]
