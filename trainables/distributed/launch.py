"""Fresh processes of this machine that run one function together, and what their parent hears.

A child is born with one end of a socket pair, over which it gets its task, calls its parent and
reports; pickles pass between the two of them only. It holds the parent's pipe as its lifeline: when
the parent ends, in whatever way, so does it. The parent ends all children when one fails, dies, or
the work is done. Nothing listens anywhere but on 127.0.0.1, and no file is left behind.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn, Protocol, TypeAlias

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from trainables import errors
from trainables.distributed.process import PATIENCE, Device, join
from trainables.errors import GroupError, Stopped, TrainableError

HOST = "127.0.0.1"
_GRACE_S = 0.3
"""After one child failed: for another's death, which may be why, to show."""


class Call(Protocol):
    """How a child asks its parent for something, and waits for the answer."""

    def __call__(self, name: str, *arguments: object, blob: bytes | None = None) -> Any: ...


Serve: TypeAlias = Callable[[str, tuple[Any, ...], bytes | None], object]
"""How the parent answers: name, arguments, and a blob that travels without being pickled."""


@dataclass(frozen=True, slots=True)
class _Task:
    function: str
    argument: bytes
    rank: int
    count: int
    port: int
    device: Device


def together(function: str, argument: bytes, serve: Serve, *, count: int, device: Device) -> Any:
    """Calls `function`, `module:name`, as f(argument, call) in `count` fresh processes, which have
    joined one group; what the first gives back. `serve` answers what they ask by `call`.

    Raises what `serve` raises, a TrainableError or Stopped that one of them raised, and GroupError
    if one died or failed otherwise; its traceback is a note of the error. None of them is left
    then.
    """
    with _listening() as port, _children(count) as children:
        for rank, child in enumerate(children):
            task = _Task(function, argument, rank, count, port, device)
            with child.dying():
                _put(child.link, "task", task)
        results: dict[int, Any] = {}
        links = {child.link: child for child in children}
        while len(results) < count:
            for link in wait(list(links)):
                child = links[link]  # type: ignore[index]
                with child.dying():
                    kind, fields, blob = _take(child.link)
                if kind == "call":
                    name, *arguments = fields
                    answer = serve(name, tuple(arguments), blob)
                    with child.dying():
                        _put(child.link, "answer", answer)
                elif kind == "log":
                    logging.getLogger(fields[0]).log(fields[1], "%s", fields[2])
                elif kind == "failed":
                    _blame(children, child, *fields)
                else:
                    results[child.rank] = fields[0]
        return results[0]


@dataclass(frozen=True, slots=True)
class _Child:
    rank: int
    count: int
    process: subprocess.Popen[bytes]
    link: Connection[Any, Any]

    @contextmanager
    def dying(self) -> Iterator[None]:
        """Says how it died where its end of the link is found closed."""
        try:
            yield
        except (EOFError, OSError) as error:
            raise GroupError(self.death()) from error

    def death(self) -> str:
        code = self.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        why = ", as the kernel does when memory runs out" if code == -signal.SIGKILL else ""
        return f"process {self.rank} of {self.count} of the trial {how}{why}"


@contextmanager
def _listening() -> Iterator[int]:
    """The port, of this machine alone, of the store at which the processes meet."""
    listener = socket.create_server((HOST, 0))
    port: int = listener.getsockname()[1]
    store = TCPStore(
        HOST, port, None, True, wait_for_workers=False, master_listen_fd=listener.detach()
    )
    try:
        yield port
    finally:
        del store  # it listens as long as it lives


@contextmanager
def _children(count: int) -> Iterator[list[_Child]]:
    children: list[_Child] = []
    try:
        for rank in range(count):
            children.append(_born(rank, count))
        yield children
    finally:
        for child in children:
            child.process.kill()
        for child in children:
            child.process.wait()
            child.link.close()
            assert child.process.stdin is not None
            child.process.stdin.close()


def _born(rank: int, count: int) -> _Child:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from trainables.distributed.launch import live; live()",
                str(theirs.fileno()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # DeepSpeed's chatter
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is for the parent to answer
        )
    return _Child(rank, count, process, Connection(ours.detach()))


def _blame(children: list[_Child], child: _Child, name: str, text: str, trace: str) -> NoReturn:
    """Raises what `child` reported, unless another's death explains it."""
    time.sleep(_GRACE_S)
    for other in children:
        if other.process.poll() is not None:
            raise GroupError(other.death())
    raise rebuilt(child.rank, child.count, name, text, trace)


def rebuilt(rank: int, count: int, name: str, text: str, trace: str) -> Exception:
    """The error of which a process of a group sent the class, the text and the traceback."""
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, TrainableError | Stopped):
        error: Exception = kind(text)
    else:
        error = GroupError(f"process {rank} of {count} of the trial: {name}: {text}")
    error.add_note(f"In process {rank} of {count}:\n{trace}")
    return error


def live() -> NoReturn:
    """The life of a child; its link's file descriptor is the only argument on its command line."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    link: Connection[Any, Any] = Connection(int(sys.argv[1]))
    turn = threading.Lock()
    try:
        _, (task,), _ = _take(link)
        if task.rank == 0:
            logging.getLogger().addHandler(_Forward(link, turn))
            logging.captureWarnings(True)
        result = _performed(task, link, turn)
        with turn:
            _put(link, "done", result)
    except BaseException as error:
        with turn:
            _put(link, "failed", type(error).__name__, str(error), traceback.format_exc())
    # Whoever leaves early breaks what the others are waiting for: all stay until they are ended.
    threading.Event().wait()
    raise AssertionError


def _performed(task: _Task, link: Connection[Any, Any], turn: threading.Lock) -> object:
    def call(name: str, *arguments: object, blob: bytes | None = None) -> Any:
        with turn:
            _put(link, "call", name, *arguments, blob=blob)
            return _take(link)[1][0]

    store = TCPStore(HOST, task.port, None, False, timeout=PATIENCE)
    join(task.device, store, rank=task.rank, count=task.count)
    module, _, name = task.function.partition(":")
    result: object = getattr(import_module(module), name)(task.argument, call)
    return result if task.rank == 0 else None


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


class _Forward(logging.Handler):
    """Hands warnings and errors to the parent's log."""

    def __init__(self, link: Connection[Any, Any], turn: threading.Lock) -> None:
        super().__init__(logging.WARNING)
        self._link, self._turn = link, turn

    def emit(self, record: logging.LogRecord) -> None:
        with self._turn:
            _put(self._link, "log", record.name, record.levelno, self.format(record))


def _put(link: Connection[Any, Any], kind: str, *fields: object, blob: bytes | None = None) -> None:
    link.send_bytes(pickle.dumps((kind, fields, blob is not None)))
    if blob is not None:
        link.send_bytes(blob)


def _take(link: Connection[Any, Any]) -> tuple[str, tuple[Any, ...], bytes | None]:
    kind, fields, more = pickle.loads(link.recv_bytes())
    return kind, fields, link.recv_bytes() if more else None
