"""All assignments of a plan in Ray's object store; a worker reads only those it is about to run.

Sent as a whole, the plan would be unpickled by every worker: 90 MB each for 100,000 items.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

import ray

from orchestrator.worker.protocol import Assignment

ITEMS_PER_BLOCK = 100
"""Reading a block of this many assignments takes a worker 1.3 to 1.6 ms."""


class WorkTable:
    """Map the keys of work items to their assignments.

    The driver creates it, and Ray frees the contents when the driver ends. Any process of the
    cluster can read it. Ray must be initialized.
    """

    def __init__(self, assignments: Iterable[Assignment]) -> None:
        by_key = {assignment.trial.key: assignment for assignment in assignments}
        count = len(by_key) // ITEMS_PER_BLOCK + 1
        blocks: list[dict[str, Assignment]] = [{} for _ in range(count)]
        for key, assignment in by_key.items():
            blocks[_block_index(key, count)][key] = assignment
        self._blocks = [ray.put(block) for block in blocks]

    def __getitem__(self, key: str) -> Assignment:
        return ray.get(self._blocks[_block_index(key, len(self._blocks))])[key]


def _block_index(key: str, count: int) -> int:
    return crc32(key.encode()) % count
