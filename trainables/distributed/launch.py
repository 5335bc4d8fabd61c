"""Run one function in several fresh processes of this machine that form a process group.

Each child has one end of a socket pair, over which it receives its task, calls its parent and
reports its result; pickles are exchanged between these two processes only. A child exits when its
stdin, a pipe from the parent, closes: that is, when the parent exits for any reason. The parent
ends all children when one fails or exits, and when the work is done. The only port is open on
127.0.0.1, and no file is left behind.
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
from trainables.distributed.process import GROUP_TIMEOUT, Device, join_group
from trainables.errors import GroupError, Stopped, TrainableError, repeats

HOST = "127.0.0.1"
_GRACE_S = 0.3
"""Time after one child's failure in which the exit of another, a possible cause, can show."""


class ParentCall(Protocol):
    """A call from a child to its parent. The child waits until the parent has answered."""

    def __call__(self, name: str, *arguments: object, blob: bytes | None = None) -> Any: ...


CallHandler: TypeAlias = Callable[[str, tuple[Any, ...], bytes | None], object]
"""Function that answers a call in the parent, given its name, arguments and blob. The blob is bytes
that are sent without being pickled, or None."""


@dataclass(frozen=True, slots=True)
class _Task:
    function: str
    argument: bytes
    rank: int
    count: int
    port: int
    device: Device


def run_processes(
    function: str, argument: bytes, handler: CallHandler, *, count: int, device: Device
) -> Any:
    """Call `function` (`module:name`) as f(argument, call) in `count` fresh processes that have
    joined one group, and return the result of rank 0. `handler` answers what they `call`.

    Raises what `handler` raises, and a TrainableError or Stopped that a process raised. Raises
    GroupError if a process exited or failed otherwise. The traceback is a note of the error. No
    process is left afterwards.
    """
    with _rendezvous_store() as port, _child_processes(count) as children:
        for rank, child in enumerate(children):
            task = _Task(function, argument, rank, count, port, device)
            with child.raising_on_exit():
                _send(child.connection, "task", task)
        results: dict[int, Any] = {}
        by_connection = {child.connection: child for child in children}
        while len(results) < count:
            for ready in wait(list(by_connection)):
                child = by_connection[ready]  # type: ignore[index]
                with child.raising_on_exit():
                    kind, fields, blob = _receive(child.connection)
                if kind == "call":
                    name, *arguments = fields
                    answer = handler(name, tuple(arguments), blob)
                    with child.raising_on_exit():
                        _send(child.connection, "answer", answer)
                elif kind == "log":
                    logging.getLogger(fields[0]).log(fields[1], "%s", fields[2])
                elif kind == "failed":
                    _raise_failure(children, child, *fields)
                else:
                    results[child.rank] = fields[0]
        return results[0]


@dataclass(frozen=True, slots=True)
class _Child:
    rank: int
    count: int
    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]

    @contextmanager
    def raising_on_exit(self) -> Iterator[None]:
        """Raise GroupError if the child's end of the connection turns out to be closed."""
        try:
            yield
        except (EOFError, OSError) as error:
            raise GroupError(self.exit_description()) from error

    def exit_description(self) -> str:
        """Wait for the child to exit, and return a phrase that describes how it exited."""
        code = self.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        why = ", as the kernel does when memory runs out" if code == -signal.SIGKILL else ""
        return f"process {self.rank} of {self.count} of the trial {how}{why}"


@contextmanager
def _rendezvous_store() -> Iterator[int]:
    """Start the store through which the processes find each other, and yield its port. It is open
    on this machine only."""
    listener = socket.create_server((HOST, 0))
    port: int = listener.getsockname()[1]
    store = TCPStore(
        HOST, port, None, True, wait_for_workers=False, master_listen_fd=listener.detach()
    )
    try:
        yield port
    finally:
        del store  # which closes the port


@contextmanager
def _child_processes(count: int) -> Iterator[list[_Child]]:
    children: list[_Child] = []
    try:
        for rank in range(count):
            children.append(_start_child(rank, count))
        yield children
    finally:
        for child in children:
            child.process.kill()
        for child in children:
            child.process.wait()
            child.connection.close()
            assert child.process.stdin is not None
            child.process.stdin.close()


def _start_child(rank: int, count: int) -> _Child:
    parent_end, child_end = socket.socketpair()
    with child_end:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from trainables.distributed.launch import child_main; child_main()",
                str(child_end.fileno()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # DeepSpeed prints to it
            pass_fds=[child_end.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # so that only the parent receives Ctrl-C
        )
    return _Child(rank, count, process, Connection(parent_end.detach()))


def _raise_failure(
    children: list[_Child], child: _Child, name: str, text: str, trace: str, again: bool
) -> NoReturn:
    """Raise the error that `child` reported, unless the exit of another child explains it."""
    time.sleep(_GRACE_S)
    for other in children:
        if other.process.poll() is not None:
            raise GroupError(other.exit_description())
    raise rebuild_error(child.rank, child.count, name, text, trace, again)


def rebuild_error(
    rank: int, count: int, name: str, text: str, trace: str, again: bool
) -> Exception:
    """Rebuild an error of a group's process from its class name, text and traceback, and from
    whether it repeats, which its cause decided there."""
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, TrainableError | Stopped):
        error: Exception = kind(text)
    else:
        error = GroupError(f"process {rank} of {count} of the trial: {name}: {text}")
    if isinstance(error, TrainableError):
        error.repeats = again
    error.add_note(f"In process {rank} of {count}:\n{trace}")
    return error


def child_main() -> NoReturn:
    """Entry point of a child. Its only argument is the file descriptor of its connection."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    lock = threading.Lock()
    try:
        _, (task,), _ = _receive(connection)
        if task.rank == 0:
            logging.getLogger().addHandler(_LogForwarder(connection, lock))
            logging.captureWarnings(True)
        result = _run_task(task, connection, lock)
        with lock:
            _send(connection, "done", result)
    except BaseException as error:
        with lock:
            trace, again = traceback.format_exc(), repeats(error)
            _send(connection, "failed", type(error).__name__, str(error), trace, again)
    # A process that exits early breaks the others' collective operations: wait to be killed.
    threading.Event().wait()
    raise AssertionError


def _run_task(task: _Task, connection: Connection[Any, Any], lock: threading.Lock) -> object:
    def call(name: str, *arguments: object, blob: bytes | None = None) -> Any:
        with lock:
            _send(connection, "call", name, *arguments, blob=blob)
            return _receive(connection)[1][0]

    store = TCPStore(HOST, task.port, None, False, timeout=GROUP_TIMEOUT)
    join_group(task.device, store, rank=task.rank, count=task.count)
    module, _, name = task.function.partition(":")
    result: object = getattr(import_module(module), name)(task.argument, call)
    return result if task.rank == 0 else None


def _exit_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


class _LogForwarder(logging.Handler):
    """Forwards warnings and errors to the parent's log."""

    def __init__(self, connection: Connection[Any, Any], lock: threading.Lock) -> None:
        super().__init__(logging.WARNING)
        self._connection, self._lock = connection, lock

    def emit(self, record: logging.LogRecord) -> None:
        with self._lock:
            _send(self._connection, "log", record.name, record.levelno, self.format(record))


def _send(
    connection: Connection[Any, Any], kind: str, *fields: object, blob: bytes | None = None
) -> None:
    connection.send_bytes(pickle.dumps((kind, fields, blob is not None)))
    if blob is not None:
        connection.send_bytes(blob)


def _receive(connection: Connection[Any, Any]) -> tuple[str, tuple[Any, ...], bytes | None]:
    kind, fields, has_blob = pickle.loads(connection.recv_bytes())
    return kind, fields, connection.recv_bytes() if has_blob else None
