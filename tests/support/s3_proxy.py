"""A proxy before an S3 server that fails as servers, disks and networks do, when it is told to.

It passes requests on as they are (signatures stay right, since the client signs the proxy's own
address), keeps a list of them, and spoils those that it was armed for.
"""

from __future__ import annotations

import http.client
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "content-length", "expect", "keep-alive", "transfer-encoding"}
TRICKLE_S = 0.5
"""Seconds between two bytes of a reply that comes in a trickle."""


class Fault(StrEnum):
    ERROR = "S3: 500"
    LATE_ERROR = "S3: 500 after the write took effect"
    SLOW_DOWN = "S3: 503 slow down"
    CONFLICT = "S3: 409 conflict"
    LOST = "S3: connection dropped after the write took effect"
    RESET = "S3: connection reset"
    HANG = "S3: no answer"
    TRUNCATED = "S3: half an answer"
    FLIPPED = "S3: a flipped bit in an answer"
    TRICKLE = "S3: an answer in a trickle"
    FORGOTTEN = "S3: a write that is acknowledged and not kept"


REFUSALS = {
    Fault.ERROR: (500, "InternalError"),
    Fault.LATE_ERROR: (500, "InternalError"),
    Fault.SLOW_DOWN: (503, "SlowDown"),
    Fault.CONFLICT: (409, "ConditionalRequestConflict"),
}
PASSING = [fault for fault in Fault if fault not in (Fault.TRICKLE, Fault.FORGOTTEN)]
"""Those that a store gets over by itself; a trickle is progress, and ended by the stall limit."""
WRITING = {Fault.LATE_ERROR, Fault.CONFLICT, Fault.LOST, Fault.FORGOTTEN}
"""Faults that make sense for a PUT or DELETE only."""
READING = {Fault.TRUNCATED, Fault.FLIPPED, Fault.TRICKLE}
"""Those for the GET of an object."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    """Bucket and key."""
    status: int
    """What the server behind the proxy answered; 0 if the request did not get there."""
    fault: Fault | None
    in_storm: bool


@dataclass(frozen=True, slots=True)
class Armed:
    fault: Fault
    after: int = 0
    """Requests to leave alone first."""
    within: str = ""
    """Part of the path of the requests that are meant."""

    def fits(self, method: str, target: str) -> bool:
        path, _, query = target.partition("?")
        if self.within not in path:
            return False
        if self.fault in WRITING:
            return method in ("PUT", "DELETE")
        return self.fault not in READING or (method == "GET" and "list-type" not in query)


@dataclass(slots=True)
class Proxy:
    """What the threads that serve requests share."""

    upstream: str
    """Host and port of the server behind."""
    requests: list[Request] = field(default_factory=list)
    storm: Armed | None = None
    """Strikes every request that it fits, for as long as it is set."""
    _armed: deque[Armed] = field(default_factory=deque)
    _spared: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def arm(self, faults: Iterable[Armed]) -> None:
        """Spoil requests: each fault strikes the first fitting request once `after` requests have
        passed since the fault before it."""
        with self._lock:
            self._armed = deque(faults)
            self._spared = 0

    def calm(self) -> None:
        """No more faults."""
        self.arm([])
        self.storm = None

    def injected(self) -> list[Fault]:
        """The single faults so far, without those of storms."""
        return [r.fault for r in list(self.requests) if r.fault and not r.in_storm]

    def choose(self, method: str, target: str) -> tuple[Fault | None, bool]:
        """The fault for this request, if it gets one, and whether that is a storm's."""
        storm = self.storm
        if storm is not None and storm.fits(method, target):
            return storm.fault, True
        return self._next(method, target), False

    def _next(self, method: str, target: str) -> Fault | None:
        with self._lock:
            if not self._armed:
                return None
            self._spared += 1
            first = self._armed[0]
            if self._spared <= first.after or not first.fits(method, target):
                return None
            self._armed.popleft()
            self._spared = 0
            return first.fault


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault, in_storm = self.proxy.choose(self.command, self.path)
        reaches = fault in (None, Fault.LATE_ERROR, Fault.LOST, *READING)
        reply = self._passed_on(body) if reaches else None
        path = self.path.partition("?")[0].lstrip("/")
        status = reply.status if reply else 0
        self.proxy.requests.append(Request(self.command, path, status, fault, in_storm))
        if fault in REFUSALS:
            self._send(refusal(*REFUSALS[fault]))
        elif fault is Fault.FORGOTTEN:
            self._send(Reply(200, [("ETag", '"none"')], b""))
        elif fault is Fault.HANG:
            self._wait_for_the_client_to_leave()
        elif reply is None or fault in (Fault.RESET, Fault.LOST):
            self._reset()
        elif fault is Fault.TRUNCATED:
            self._send(reply, upto=len(reply.body) // 2)
        elif fault is Fault.TRICKLE:
            self._trickle(reply)
        else:
            self._send(flipped(reply) if fault is Fault.FLIPPED else reply)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _passed_on(self, body: bytes) -> Reply | None:
        """What the server behind answers; None if it does not."""
        connection = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    connection.putheader(name, value)
            if body or self.command == "PUT":
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            got = connection.getresponse()
            return Reply(got.status, got.getheaders(), got.read())
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def _send(self, reply: Reply, upto: int | None = None) -> None:
        """The reply, or the head and the first `upto` bytes of it and then the end."""
        self.send_response_only(reply.status)
        whole = self.command == "HEAD" or reply.status == 204
        for name, value in reply.headers:
            if name.lower() not in HOP_BY_HOP or (whole and name.lower() == "content-length"):
                self.send_header(name, value)
        if not whole:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if not whole:
            self.wfile.write(reply.body[:upto])
        if upto is not None:
            self.close_connection = True

    def _trickle(self, reply: Reply) -> None:
        self._send(reply, upto=0)
        for byte in reply.body:
            if self._left(TRICKLE_S):
                return
            self.wfile.write(bytes([byte]))

    def _wait_for_the_client_to_leave(self) -> None:
        while not self._left(1.0):
            pass
        self.close_connection = True

    def _left(self, timeout: float) -> bool:
        """Whether the client closes its connection within so many seconds."""
        self.connection.settimeout(timeout)
        try:
            return not self.connection.recv(1)
        except TimeoutError:
            return False
        except OSError:
            return True

    def _reset(self) -> None:
        """Close with a TCP reset, as a server that was killed does."""
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        os.close(self.connection.detach())

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client is gone
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


def refusal(status: int, code: str) -> Reply:
    body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
    return Reply(status, [("Content-Type", "application/xml")], body)


def flipped(reply: Reply) -> Reply:
    body = bytearray(reply.body)
    if body:
        body[len(body) // 2] ^= 1
    return Reply(reply.status, reply.headers, bytes(body))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def shutdown_request(self, request: object) -> None:
        assert isinstance(request, socket.socket)
        if request.fileno() != -1:  # else it was reset
            super().shutdown_request(request)


@contextmanager
def serving(upstream: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy before the server at the address `upstream`, and the proxy's own address."""
    proxy = Proxy(urlsplit(upstream).netloc)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
