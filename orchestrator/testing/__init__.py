"""Contract suites for parts of planning from inside or outside the package.

The author of a ticket source or a strategy calls the suite from a test. `trainables.testing` has
the suites of models, tasks and pruning. This package may import the pure packages.
"""

from __future__ import annotations

from orchestrator.testing.sources import check_source_contract
from orchestrator.testing.strategies import check_strategy_contract

__all__ = ["check_source_contract", "check_strategy_contract"]
