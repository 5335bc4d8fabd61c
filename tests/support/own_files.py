"""Files of a user's own, as a sweep names them under `module` and `modules`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.sweeps import sweep_document

TASK = '''
"""Easy-VQA under a name of one's own, with another recipe."""
from trainables.spec import Recipe
from trainables.tasks import TASKS, TaskEntry

TASK = TaskEntry(
    module=__name__,
    recipes={"uniter": Recipe(steps=4, batch_size=16, lr=2e-3, eval_examples=64)},
    shipped_data=TASKS["easy_vqa"].shipped_data,
)


def open_task(source, spec, backbone):
    from trainables.tasks import easy_vqa

    return easy_vqa.open_task(source, spec, backbone)
'''
PRUNER = '''
"""Keep the first weights of each tensor."""
from trainables.pruning import PruneMethod, kept_count

PRUNER = PruneMethod(module=__name__, needs="nothing")


def prune(spec, space, ticket, reference):
    import numpy as np

    masks = {}
    for name, shape in space.items():
        keep = np.zeros(shape, bool)
        keep.reshape(-1)[: kept_count(keep.size, spec.sparsity)] = True
        masks[name] = keep
    return masks
'''

OPTIMIZER = '''
"""Plain gradient descent."""
from trainables.optim import OptimizerEntry

OPTIMIZER = OptimizerEntry(module=__name__)


def state_names(recipe):
    return ()


def build(groups, recipe):
    import torch

    return torch.optim.SGD(groups, lr=recipe.lr)


def settings(recipe, lr, update):
    return {"lr": lr}
'''
SOURCE = '''
"""Random tickets with seeds of their own."""
from orchestrator.sources import TicketSource

SOURCE = TicketSource(module=__name__, label="lottery")


def generate(builder, point):
    for level in point.scored_levels():
        ticket = builder.prune(point, level, method="random", seed=point.seed + 77)
        run = builder.train(point, start=builder.start(point), ticket=ticket, level=level)
        yield level, (run, ticket)
'''
STRATEGY = '''
"""Only the dense runs."""
from orchestrator.schedule.strategy import StrategyEntry


class DenseRuns:
    def wanted(self, plan, results):
        return [cell.trial for cell in plan.cells if not cell.level]


STRATEGY = StrategyEntry(create=lambda sweep: DenseRuns())
'''


def write_own_files(folder: Path) -> dict[str, Any]:
    """Write both files, and return a sweep that uses them: tickets that keep the first weights."""
    (folder / "my_task.py").write_text(TASK)
    (folder / "first_weights.py").write_text(PRUNER)
    study = {
        "task": "mine",
        "recipe": "default",
        "schedule": {"rate": 0.5, "levels": 1},
        "pruner": "first",
        "tickets": ["omp"],
    }
    return sweep_document(**study) | {
        "tasks": {"mine": {"module": str(folder / "my_task.py")}},
        "pruners": {"first": {"module": str(folder / "first_weights.py")}},
    }
