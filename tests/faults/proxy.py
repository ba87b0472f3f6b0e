"""An HTTP server in front of an object store that fails as it is told to: seeded, or at calls that a test names."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

#: "slow-down": answered by 503; "reset": the connection ends before the store hears of the request; "unanswered": it
#: ends after the store has done what it was asked; "late": the store answers after ``LATE_S``.
Fault = Literal["slow-down", "reset", "unanswered", "late"]
#: Method and path of a request to what befalls it.
Decide = Callable[[str, str], Fault | None]

LATE_S = 3.0
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
RESET_AT_CLOSE = struct.pack("ii", 1, 0)
NOT_FORWARDED = {"expect", "connection", "transfer-encoding", "content-length"}


def no_fault(method: str, path: str) -> Fault | None:
    """All is well."""
    return None


def away(method: str, path: str) -> Fault | None:
    """The store is gone."""
    return "reset"


def at_random(share: float, kinds: Sequence[Fault], seed: int) -> Decide:
    """One of ``kinds`` befalls this ``share`` of all calls."""
    dice = random.Random(seed)
    lock = threading.Lock()

    def decide(method: str, path: str) -> Fault | None:
        with lock:
            return dice.choice(kinds) if dice.random() < share else None

    return decide


def once_each(fault: Fault, chosen: Callable[[str, str], bool]) -> Decide:
    """``fault`` befalls the first call of every method and path that is ``chosen``; asked again, all is well."""
    met: set[tuple[str, str]] = set()
    lock = threading.Lock()

    def decide(method: str, path: str) -> Fault | None:
        with lock:
            if (method, path) in met or not chosen(method, path):
                return None
            met.add((method, path))
            return fault

    return decide


class FaultyStore:
    """The server, at ``endpoint``. ``decide`` can be set at any time; ``befallen`` counts the faults so far."""

    def __init__(self, behind: str) -> None:
        self.decide: Decide = no_fault
        self.befallen: Counter[str] = Counter()
        self._behind = urlsplit(behind).netloc
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

            def log_message(self, *unused: object) -> None:
                """Nothing is printed."""

            def answer(self) -> None:
                outer._answer(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._closed = threading.Event()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """End it."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, call: BaseHTTPRequestHandler) -> None:
        body = call.rfile.read(int(call.headers.get("Content-Length") or 0))
        fault = self.decide(call.command, call.path)
        if fault is not None:
            self.befallen[fault] += 1
        if fault == "slow-down":
            _send(call, 503, [("Content-Type", "application/xml")], SLOW_DOWN)
            return
        if fault != "reset":
            status, headers, answer = self._forward(call, body)
            if fault == "late":
                self._closed.wait(LATE_S)
            if fault != "unanswered":
                _send(call, status, headers, answer)
                return
        call.close_connection = True
        call.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        call.connection.close()

    def _forward(self, call: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self._behind, timeout=60)
        try:
            headers = {name: value for name, value in call.headers.items() if name.lower() not in NOT_FORWARDED}
            connection.request(call.command, call.path, body, headers | {"Content-Length": str(len(body))})
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


def _send(call: BaseHTTPRequestHandler, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
    call.send_response_only(status)
    lengths = [value for name, value in headers if name.lower() == "content-length"]
    for name, value in headers:
        if name.lower() not in NOT_FORWARDED:
            call.send_header(name, value)
    call.send_header("Content-Length", lengths[0] if call.command == "HEAD" and lengths else str(len(body)))
    call.end_headers()
    if call.command != "HEAD":
        call.wfile.write(body)
