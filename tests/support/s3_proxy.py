"""A proxy in front of an S3 server that injects faults of servers, disks and networks.

It forwards requests unchanged (signatures stay valid, since the client signs the proxy's address),
records them, and injects the faults that `S3Proxy.arm` and `S3Proxy.storm` set.
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
"""Seconds between two bytes of a reply with `Fault.TRICKLE`."""


class Fault(StrEnum):
    ERROR = "S3: 500"
    LATE_ERROR = "S3: 500 after the write took effect"
    SLOW_DOWN = "S3: 503 slow down"
    CONFLICT = "S3: 409 conflict"
    LOST = "S3: connection dropped after the write took effect"
    RESET = "S3: connection reset"
    HANG = "S3: no answer"
    TRUNCATED = "S3: answer truncated to half"
    FLIPPED = "S3: flipped bit in the answer"
    TRICKLE = "S3: answer in a trickle of bytes"
    FORGOTTEN = "S3: write acknowledged but not stored"


ERROR_RESPONSES = {
    Fault.ERROR: (500, "InternalError"),
    Fault.LATE_ERROR: (500, "InternalError"),
    Fault.SLOW_DOWN: (503, "SlowDown"),
    Fault.CONFLICT: (409, "ConditionalRequestConflict"),
}
RECOVERABLE = [fault for fault in Fault if fault not in (Fault.TRICKLE, Fault.FORGOTTEN)]
"""Faults that the store recovers from by itself. (A trickle counts as progress, and is ended by the
stall timeout.)"""
WRITE_FAULTS = {Fault.LATE_ERROR, Fault.CONFLICT, Fault.LOST, Fault.FORGOTTEN}
"""Faults that apply only to PUT or DELETE."""
READ_FAULTS = {Fault.TRUNCATED, Fault.FLIPPED, Fault.TRICKLE}
"""Faults that apply only to the GET of an object."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    """Bucket and key."""
    status: int
    """Status of the upstream server's answer; 0 if the request did not reach it."""
    fault: Fault | None
    in_storm: bool
    """Whether the fault is that of a storm, which every matching request gets."""


@dataclass(frozen=True, slots=True)
class ArmedFault:
    fault: Fault
    after: int = 0
    """Number of requests to forward unchanged first."""
    path_contains: str = ""
    """Only requests whose path contains this get the fault."""

    def matches(self, method: str, target: str) -> bool:
        path, _, query = target.partition("?")
        if self.path_contains not in path:
            return False
        if self.fault in WRITE_FAULTS:
            return method in ("PUT", "DELETE")
        return self.fault not in READ_FAULTS or (method == "GET" and "list-type" not in query)


@dataclass(slots=True)
class S3Proxy:
    """State shared by the threads that serve requests."""

    upstream: str
    """Host and port of the upstream server."""
    requests: list[Request] = field(default_factory=list)
    storm: ArmedFault | None = None
    """While set, every matching request gets this fault."""
    _armed: deque[ArmedFault] = field(default_factory=deque)
    _forwarded: int = 0
    """Requests since the last fault."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def arm(self, faults: Iterable[ArmedFault]) -> None:
        """Inject faults: each one is applied to the first matching request after `after` requests
        have passed since the previous fault."""
        with self._lock:
            self._armed = deque(faults)
            self._forwarded = 0

    def disarm(self) -> None:
        """Inject no more faults."""
        self.arm([])
        self.storm = None

    def injected_faults(self) -> list[Fault]:
        """Return the single faults so far, without those of storms."""
        return [r.fault for r in list(self.requests) if r.fault and not r.in_storm]

    def next_fault(self, method: str, target: str) -> tuple[Fault | None, bool]:
        """Return the fault for this request, if any, and whether it belongs to a storm."""
        storm = self.storm
        if storm is not None and storm.matches(method, target):
            return storm.fault, True
        return self._next(method, target), False

    def _next(self, method: str, target: str) -> Fault | None:
        with self._lock:
            if not self._armed:
                return None
            self._forwarded += 1
            first = self._armed[0]
            if self._forwarded <= first.after or not first.matches(method, target):
                return None
            self._armed.popleft()
            self._forwarded = 0
            return first.fault


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: S3Proxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault, in_storm = self.proxy.next_fault(self.command, self.path)
        forwarded = fault in (None, Fault.LATE_ERROR, Fault.LOST, *READ_FAULTS)
        reply = self._forward(body) if forwarded else None
        path = self.path.partition("?")[0].lstrip("/")
        status = reply.status if reply else 0
        self.proxy.requests.append(Request(self.command, path, status, fault, in_storm))
        if fault in ERROR_RESPONSES:
            self._send(error_reply(*ERROR_RESPONSES[fault]))
        elif fault is Fault.FORGOTTEN:
            self._send(Reply(200, [("ETag", '"none"')], b""))
        elif fault is Fault.HANG:
            self._wait_for_disconnect()
        elif reply is None or fault in (Fault.RESET, Fault.LOST):
            self._reset()
        elif fault is Fault.TRUNCATED:
            self._send(reply, max_bytes=len(reply.body) // 2)
        elif fault is Fault.TRICKLE:
            self._trickle(reply)
        else:
            self._send(flip_bit(reply) if fault is Fault.FLIPPED else reply)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _forward(self, body: bytes) -> Reply | None:
        """Return the upstream server's answer; None if there is none."""
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
            response = connection.getresponse()
            return Reply(response.status, response.getheaders(), response.read())
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def _send(self, reply: Reply, max_bytes: int | None = None) -> None:
        """Send the reply; with `max_bytes`, only the headers and the first bytes of the body, and
        then close the connection."""
        self.send_response_only(reply.status)
        no_body = self.command == "HEAD" or reply.status == 204
        for name, value in reply.headers:
            if name.lower() not in HOP_BY_HOP or (no_body and name.lower() == "content-length"):
                self.send_header(name, value)
        if not no_body:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if not no_body:
            self.wfile.write(reply.body[:max_bytes])
        if max_bytes is not None:
            self.close_connection = True

    def _trickle(self, reply: Reply) -> None:
        self._send(reply, max_bytes=0)
        for byte in reply.body:
            if self._disconnects(TRICKLE_S):
                return
            self.wfile.write(bytes([byte]))

    def _wait_for_disconnect(self) -> None:
        while not self._disconnects(1.0):
            pass
        self.close_connection = True

    def _disconnects(self, timeout: float) -> bool:
        """Return whether the client closes its connection within `timeout` seconds."""
        self.connection.settimeout(timeout)
        try:
            return not self.connection.recv(1)
        except TimeoutError:
            return False
        except OSError:
            return True

    def _reset(self) -> None:
        """Close the connection with a TCP reset, like a killed server."""
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        os.close(self.connection.detach())

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client has disconnected
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


def error_reply(status: int, code: str) -> Reply:
    body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
    return Reply(status, [("Content-Type", "application/xml")], body)


def flip_bit(reply: Reply) -> Reply:
    body = bytearray(reply.body)
    if body:
        body[len(body) // 2] ^= 1
    return Reply(reply.status, reply.headers, bytes(body))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def shutdown_request(self, request: object) -> None:
        assert isinstance(request, socket.socket)
        if request.fileno() != -1:  # -1: the connection was reset
            super().shutdown_request(request)


@contextmanager
def run_proxy(upstream: str) -> Iterator[tuple[S3Proxy, str]]:
    """Run a proxy in front of the server at the address `upstream`; yield it and its address."""
    proxy = S3Proxy(urlsplit(upstream).netloc)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
