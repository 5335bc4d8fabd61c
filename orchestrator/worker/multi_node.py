"""Run one trial in processes on several machines, by a nested Ray Train run.

Arguments, outcome and calls of the sink are those of `trainables.run_group`. Ray Train places the
processes and joins them in a group. It makes no checkpoints and retries nothing: the sink and the
searcher do. The first process calls the sink through a small actor on the caller's machine.
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
from trainables.distributed.launch import CallHandler, rebuild_error
from trainables.distributed.process import BACKENDS, GROUP_TIMEOUT
from trainables.errors import GroupError, repeats
from trainables.run import RunInputs, RunOutcome
from trainables.run_group import pack_arguments, run_member, sink_handler
from trainables.spec import PruneSpec, TrainSpec
from trainables.training.sink import Sink

_SETTINGS = {
    # A cluster that scales up needs minutes for a machine; the default is one minute.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(GROUP_TIMEOUT.total_seconds()),
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
_CLOSE = "close"
_NODE_DEATH_S = 30
"""Ray checks a node five times, at intervals of 3 s, before it declares it dead."""
_HEARTBEAT_S = 1.0
"""Between two heartbeats while the processes wait for machines."""
_MAX_PENDING_CALLS = 1000
"""Calls that may wait in the actor: one of each process, and the caller's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """The number of processes and of nodes, and the GPUs of each process."""

    workers: int
    nodes: int
    gpus: float


def run(
    spec: TrainSpec,
    inputs: RunInputs,
    sink: Sink,
    *,
    topology: Topology,
    prunes: Mapping[str, PruneSpec],
    rewinds: Collection[int],
    until: int | None,
) -> RunOutcome:
    """Do what `trainables.run_group.run` does, over the nodes of this process's Ray cluster.

    Raises the same errors, and MachineLost if a process was lost together with its node.
    """
    os.environ.update(_SETTINGS)
    argument = pack_arguments(spec, inputs, prunes=prunes, rewinds=rewinds, until=until)
    with (
        _SinkServer(sink_handler(sink), topology.workers) as server,
        tempfile.TemporaryDirectory() as scratch,
    ):
        trainer = TorchTrainer(
            _train_loop,
            train_loop_config={
                "argument": ray.put(argument),
                "mailbox": server.mailbox,
            },
            torch_config=TorchConfig(
                backend=BACKENDS[inputs.device], timeout_s=int(GROUP_TIMEOUT.total_seconds())
            ),
            scaling_config=_scaling_config(topology, inputs.threads),
            run_config=RunConfig(
                name="trial",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise _cause(server, error, topology.workers) from error
        assert server.outcome is not None
        return server.outcome


def _scaling_config(topology: Topology, threads: int) -> ScalingConfig:
    """One process per node is placed strictly so; several are spread as well as Ray can."""
    one_per_node = topology.nodes == topology.workers
    resources = {"CPU": float(threads)} | ({"GPU": topology.gpus} if topology.gpus else {})
    return ScalingConfig(
        num_workers=topology.workers,
        use_gpu=topology.gpus > 0,
        resources_per_worker=resources,
        placement_strategy="STRICT_SPREAD" if one_per_node else "SPREAD",
    )


def _cause(server: _SinkServer, error: TrainingFailedError, count: int) -> Exception:
    """Return the error of the sink or of a process, if one of them explains Ray Train's."""
    if server.sink_error is not None:
        return server.sink_error
    last = str(error).strip().splitlines()[-1]
    cause: Exception = GroupError(f"the trial's {count} processes ended early: {last}")
    if server.failure is not None:
        cause = rebuild_error(server.failure[0], count, *server.failure[1:])
        if not isinstance(cause, GroupError) or cause.repeats:
            return cause
    # A process that loses a peer fails too, and its error may arrive first.
    if isinstance(error, PreemptionError) or _any_node_dies(server.node_ids):
        return MachineLost(f"a machine of the trial's {count} processes was lost")
    return cause


def _any_node_dies(node_ids: set[str]) -> bool:
    """Whether one of these nodes is dead, or Ray declares it dead within `_NODE_DEATH_S`."""
    for _ in range(_NODE_DEATH_S):
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
        if node_ids - alive:
            return True
        time.sleep(1)
    return False


def _train_loop(config: dict[str, Any]) -> None:
    """Run one process of the group, on a Ray Train worker that has already joined it."""
    context = ray.train.get_context()
    rank, mailbox = context.get_world_rank(), config["mailbox"]

    def call(name: str, *arguments: object, blob: bytes | None = None) -> Any:
        handled, value = ray.get(mailbox.ask.remote(name, arguments, blob))
        if not handled:
            raise GroupError(f"the caller failed to handle {name!r}")
        return value

    try:
        call("joined", ray.get_runtime_context().get_node_id())
        outcome = run_member(ray.get(config["argument"]), call)
        if rank == 0:
            call("outcome", blob=pickle.dumps(outcome))
    except BaseException as error:
        trace = traceback.format_exc()
        call("failed", rank, type(error).__name__, str(error), trace, repeats(error))
        raise


class _MailboxActor:
    """Holds the processes' calls until the caller's thread has answered them."""

    def __init__(self) -> None:
        self._calls: asyncio.Queue[Any] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[Any]] = {}

    async def ask(self, *call: Any) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[id(answer)] = answer
        await self._calls.put((id(answer), call))
        return await answer

    async def next_call(self) -> Any:
        return await self._calls.get()

    async def answer(self, number: int, value: object) -> None:
        self._answers.pop(number).set_result(value)


class _SinkServer:
    """The caller's end: within its `with` block, a thread answers the processes from the sink."""

    def __init__(self, handler: CallHandler, count: int) -> None:
        self.outcome: RunOutcome | None = None
        self.failure: tuple[int, str, str, str, bool] | None = None
        """Rank, class, message and traceback of the first process that failed, and whether its
        error repeats."""
        self.sink_error: Exception | None = None
        self.node_ids: set[str] = set()
        """Nodes of the processes that have joined."""
        self._handler = handler
        self._missing = count
        """Processes without a machine, for which the cluster may have to scale up."""
        self.mailbox = local_actor(_MailboxActor, max_concurrency=_MAX_PENDING_CALLS)
        self._thread = threading.Thread(target=self._serve, name="sink server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.mailbox.ask.remote(_CLOSE, (), None)
        self._thread.join()
        ray.kill(self.mailbox)

    def _serve(self) -> None:
        while True:
            pending = self.mailbox.next_call.remote()
            while not ray.wait([pending], timeout=_HEARTBEAT_S)[0]:
                if self._missing:
                    self._handler("heartbeat", (), None)
            number, (name, arguments, blob) = ray.get(pending)
            if name == _CLOSE:
                return
            handled, value = True, None
            if name == "outcome":
                self.outcome = pickle.loads(blob)
            elif name == "failed":
                self.failure = self.failure or arguments
            elif name == "joined":
                self.node_ids.add(arguments[0])
                self._missing -= 1
            else:
                try:
                    value = self._handler(name, arguments, blob)
                except Exception as error:
                    self.sink_error, handled = error, False
            self.mailbox.answer.remote(number, (handled, value))
