"""Run a trial on two nodes of a Ray cluster, in a process that has the cluster's token.

    python -m tests.support.multi_node CASE [TOKEN]

prints the result of a case in `CASES` as one JSON object. TOKEN is the process token of the node
that the case `kill_node` kills.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from traceback import format_exception
from typing import Any

import ray

from cluster.local import processes
from orchestrator.worker import multi_node
from tests.support.runs import PRUNE, RECIPE, RecordingSink, inputs, masks_sha256, spec, ticket
from trainables import run
from trainables.run import RunOutcome
from trainables.spec import Recipe
from trainables.training.sink import Action

DETERMINISTIC = replace(RECIPE, dropout=0.0, clip_norm=0.0)
"""A recipe whose results do not depend on the number of processes."""


@dataclass
class ScriptedSink(RecordingSink):
    """A sink that returns what a function returns at step 3."""

    at_step_three: Callable[[], Action] = lambda: "continue"

    def next_action(self, step: int) -> Action:
        return self.at_step_three() if step == 3 else "continue"


def train_trial(recipe: Recipe, sink: RecordingSink, *, nodes: int = 2) -> RunOutcome:
    trial, trial_inputs = spec(ticket="applied", recipe=recipe), inputs(ticket=ticket())
    prunes, rewinds = {"k": replace(PRUNE, sparsity=0.8)}, {0, 3}
    if nodes == 1:
        return run.run(trial, trial_inputs, sink, prunes=prunes, rewinds=rewinds)
    return multi_node.run(
        *(trial, trial_inputs, sink),
        topology=multi_node.Topology(workers=nodes, nodes=nodes, gpus=0.0),
        prunes=prunes,
        rewinds=rewinds,
        until=None,
    )


def run_to_failure(
    recipe: Recipe, at_step_three: Callable[[], Action] = lambda: "continue"
) -> dict[str, Any]:
    """Return the error that ends a trial, and its number of checkpoints; empty without an error."""
    sink = ScriptedSink(at_step_three=at_step_three)
    try:
        train_trial(recipe, sink)
    except Exception as error:
        text = "".join(format_exception(error))
        return {
            "class": type(error).__name__,
            "text": text,
            "checkpoints": len(sink.checkpoints),
        }
    return {}


def compare() -> dict[str, Any]:
    """Compare a trial on two nodes, without and with ZeRO 3, with the same trial in one process."""
    one, two, sharded = RecordingSink(), RecordingSink(), RecordingSink()
    expected = train_trial(DETERMINISTIC, one, nodes=1)
    outcome = train_trial(DETERMINISTIC, two)
    train_trial(replace(DETERMINISTIC, zero=3), sharded)
    masks = [masks_sha256(sink.tickets["k"]) for sink in (one, two, sharded)]
    return {
        "outcome": outcome == expected,
        "rewinds": two.rewinds == one.rewinds,
        "masks": masks,
    }


def raise_error() -> Action:
    raise RuntimeError("the store is gone")


def kill_node(token: str) -> Action:
    found = processes.find_processes(token)
    for process in sorted(found, key=lambda process: process.name() != "raylet"):
        process.kill()
    return "continue"


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "compare": compare,
    "errors": lambda: {
        "stop": run_to_failure(DETERMINISTIC, lambda: "stop"),
        "diverge": run_to_failure(replace(DETERMINISTIC, lr=1e30, warmup=0.0)),
        "raise_error": run_to_failure(DETERMINISTIC, raise_error),
    },
    "kill_node": lambda token: run_to_failure(
        replace(DETERMINISTIC, steps=500), lambda: kill_node(token)
    ),
}

if __name__ == "__main__":
    ray.init(log_to_driver=False)
    print(json.dumps(CASES[sys.argv[1]](*sys.argv[2:])))
    ray.shutdown()
