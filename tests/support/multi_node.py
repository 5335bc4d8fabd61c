"""Trials on two machines of a Ray cluster; a process of its own, since its token is the cluster's.

    python -m tests.support.multi_node CASE

prints one JSON object.
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
from orchestrator.worker.multi_node import Span, run
from tests.support.runs import CUT, RECIPE, Kept, bits, inputs, spec, ticket
from trainables import run as single
from trainables.run import Outcome
from trainables.spec import Recipe
from trainables.training.sink import Turn

STILL = replace(RECIPE, dropout=0.0, clip_norm=0.0)


@dataclass
class Asked(Kept):
    """Does something at step 3."""

    at_three: Callable[[], Turn] = lambda: "go on"

    def turn(self, step: int) -> Turn:
        return self.at_three() if step == 3 else "go on"


def trained(recipe: Recipe, sink: Kept, *, spanned: bool = True) -> Outcome:
    asked, given = spec(ticket="worn", recipe=recipe), inputs(ticket=ticket())
    cuts, rewinds = {"k": replace(CUT, sparsity=0.8)}, {0, 3}
    if not spanned:
        return single.run(asked, given, sink, cuts=cuts, rewinds=rewinds)
    span = Span(workers=2, nodes=2, gpus=0.0)
    return run(asked, given, sink, span=span, cuts=cuts, rewinds=rewinds, until=None)


def failing(recipe: Recipe, at_three: Callable[[], Turn] = lambda: "go on") -> dict[str, Any]:
    sink = Asked(at_three=at_three)
    try:
        trained(recipe, sink)
    except Exception as error:
        told = {"class": type(error).__name__, "text": "".join(format_exception(error))}
        return told | {"checkpoints": len(sink.checkpoints)}
    return {}


def alike() -> dict[str, Any]:
    one, two, sharded = Kept(), Kept(), Kept()
    expected = trained(STILL, one, spanned=False)
    found = trained(STILL, two)
    trained(replace(STILL, zero=3), sharded)
    masks = [bits(each.cuts["k"]) for each in (one, two, sharded)]
    return {"outcome": found == expected, "rewinds": two.rewinds == one.rewinds, "masks": masks}


def refuse() -> Turn:
    raise RuntimeError("the store is gone")


def lose(token: str) -> Turn:
    for process in sorted(processes.alive(token), key=lambda each: each.name() != "raylet"):
        process.kill()
    return "go on"


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "alike": alike,
    "stop": lambda: failing(STILL, lambda: "stop"),
    "diverge": lambda: failing(replace(STILL, lr=1e30, warmup=0.0)),
    "refuse": lambda: failing(STILL, refuse),
    "lose": lambda token: failing(replace(STILL, steps=500), lambda: lose(token)),
}

if __name__ == "__main__":
    ray.init(log_to_driver=False)
    print(json.dumps(CASES[sys.argv[1]](*sys.argv[2:])))
    ray.shutdown()
