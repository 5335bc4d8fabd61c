"""Run one trial in processes on several machines, by a nested Ray Train run.

The call, the outcome and what the sink gets are those of `trainables.run_group`. Ray Train places
the processes and lets them meet; it makes no checkpoint and repeats no attempt, which is the sink's
and the searcher's part. The first process asks the sink through a small actor on the caller's
machine.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import tempfile
import threading
import time
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

import ray
from ray.train.torch import TorchConfig
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import PreemptionError, TrainingFailedError
from ray.train.v2.torch.torch_trainer import TorchTrainer

from orchestrator.errors import MachineLost
from orchestrator.ray_cluster.actors import local_actor
from trainables import run_group as group
from trainables.distributed.launch import Serve, rebuilt
from trainables.distributed.process import BACKENDS, PATIENCE
from trainables.errors import GroupError
from trainables.run import Inputs, Outcome
from trainables.spec import CutSpec, TrainSpec
from trainables.training.sink import Sink

_SETTINGS = {
    # A cluster that grows needs minutes for a machine; the default is one.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(PATIENCE.total_seconds()),
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
_OVER = "over"
_LOSS_SHOWS_S = 30
"""Ray asks a node five times, at intervals of 3 s, before it takes it for dead."""
_SIGN_S = 1.0
"""Between two signs of life while machines are waited for."""
_MOST_CALLS = 1000
"""That wait in the actor: one of each process, and the caller's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """How many processes, and what each takes."""

    workers: int
    nodes: int
    gpus: float


def run(
    spec: TrainSpec,
    inputs: Inputs,
    sink: Sink,
    *,
    span: Span,
    cuts: Mapping[str, CutSpec],
    rewinds: Collection[int],
    until: int | None,
) -> Outcome:
    """`trainables.run_group.run` over the machines of the Ray cluster that this process belongs to.

    Raises the same, and MachineLost if a process went with its machine.
    """
    os.environ.update(_SETTINGS)
    argument = group.packed(spec, inputs, cuts=cuts, rewinds=rewinds, until=until)
    with (
        _Exchange(group.serving(sink), span.workers) as exchange,
        tempfile.TemporaryDirectory() as scratch,
    ):
        trainer = TorchTrainer(
            _member,
            train_loop_config={
                "argument": ray.put(argument),
                "exchange": exchange.actor,
            },
            torch_config=TorchConfig(
                backend=BACKENDS[inputs.device], timeout_s=int(PATIENCE.total_seconds())
            ),
            scaling_config=_scaling(span, inputs.threads),
            run_config=RunConfig(
                name="trial",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise _cause(exchange, error, span.workers) from error
        assert exchange.outcome is not None
        return exchange.outcome


def _scaling(span: Span, threads: int) -> ScalingConfig:
    """One process to a machine is placed strictly so; more are spread as Ray can."""
    resources = {"CPU": float(threads)} | ({"GPU": span.gpus} if span.gpus else {})
    return ScalingConfig(
        num_workers=span.workers,
        use_gpu=span.gpus > 0,
        resources_per_worker=resources,
        placement_strategy="STRICT_SPREAD" if span.nodes == span.workers else "SPREAD",
    )


def _cause(exchange: _Exchange, error: TrainingFailedError, count: int) -> Exception:
    """What the sink or a member said before Ray Train saw the group end, if that explains it."""
    if exchange.refused is not None:
        return exchange.refused
    last = str(error).strip().splitlines()[-1]
    said: Exception = GroupError(f"the trial's {count} processes ended early: {last}")
    if exchange.failed is not None:
        said = rebuilt(exchange.failed[0], count, *exchange.failed[1:])
        if not isinstance(said, GroupError):
            return said
    # Who loses a peer fails too, and may be heard first.
    if isinstance(error, PreemptionError) or _gone(exchange.machines):
        return MachineLost(f"a machine of the trial's {count} processes was lost")
    return said


def _gone(machines: set[str]) -> bool:
    """Whether one of these nodes is dead, or is found so before long."""
    for _ in range(_LOSS_SHOWS_S):
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
        if machines - alive:
            return True
        time.sleep(1)
    return False


def _member(config: dict[str, Any]) -> None:
    """One process's part, on a worker of Ray Train, which has let it join the group."""
    context = ray.train.get_context()
    rank, exchange = context.get_world_rank(), config["exchange"]

    def call(name: str, *arguments: object, blob: bytes | None = None) -> Any:
        heard, value = ray.get(exchange.ask.remote(name, arguments, blob))
        if not heard:
            raise GroupError(f"the caller could not take {name}")
        return value

    try:
        call("here", ray.get_runtime_context().get_node_id())
        outcome = group.member(ray.get(config["argument"]), call)
        if rank == 0:
            call("outcome", blob=pickle.dumps(outcome))
    except BaseException as error:
        trace = traceback.format_exc()
        call("failed", rank, type(error).__name__, str(error), trace)
        raise


class _Desk:
    """Holds what the members ask until the caller's thread has answered it."""

    def __init__(self) -> None:
        self._asked: asyncio.Queue[Any] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[Any]] = {}

    async def ask(self, *question: Any) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[id(answer)] = answer
        await self._asked.put((id(answer), question))
        return await answer

    async def next(self) -> Any:
        return await self._asked.get()

    async def answer(self, number: int, value: object) -> None:
        self._answers.pop(number).set_result(value)


class _Exchange:
    """The caller's end: a thread that answers from the sink as long as it is entered."""

    def __init__(self, serve: Serve, count: int) -> None:
        self.outcome: Outcome | None = None
        self.failed: tuple[int, str, str, str] | None = None
        """Rank, class, text and traceback of the first member that failed."""
        self.refused: Exception | None = None
        """What the sink raised."""
        self.machines: set[str] = set()
        """Ids of the nodes that the members are on."""
        self._serve = serve
        self._missing = count
        """Members that have no machine yet, for which the cluster may have to grow."""
        self.actor = local_actor(_Desk, calls=_MOST_CALLS)
        self._thread = threading.Thread(target=self._answer, name="exchange", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.actor.ask.remote(_OVER, (), None)
        self._thread.join()
        ray.kill(self.actor)

    def _answer(self) -> None:
        while True:
            asked = self.actor.next.remote()
            while not ray.wait([asked], timeout=_SIGN_S)[0]:
                if self._missing:
                    self._serve("alive", (), None)
            number, (name, arguments, blob) = ray.get(asked)
            if name == _OVER:
                return
            heard, value = True, None
            if name == "outcome":
                self.outcome = pickle.loads(blob)
            elif name == "failed":
                self.failed = self.failed or arguments
            elif name == "here":
                self.machines.add(arguments[0])
                self._missing -= 1
            else:
                try:
                    value = self._serve(name, arguments, blob)
                except Exception as error:
                    self.refused, heard = error, False
            self.actor.answer.remote(number, (heard, value))
