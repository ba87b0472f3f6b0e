"""One process that renders pages, from the side of those who ask it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from rtprune.documents.exchange import Exchange
from rtprune.documents.pages import PageFault, PageImage
from rtprune.documents.raster import Raster
from rtprune.errors import Reason, RTPruneError, StoreError, UsageError

FETCH_TIMEOUT_S = 1800.0  # s3fs gives up long before
PAGES_PER_PROCESS = 2000  # then it is replaced, and whatever it has leaked goes with it
CHUNK_BYTES = 2**16

_RAISED: dict[str, type[RTPruneError]] = {"StoreError": StoreError, "UsageError": UsageError}


@dataclass(frozen=True, slots=True)
class Ask:
    """A request: pages ``first_page`` to ``last_page`` of the document ``doc_id`` at ``uri``."""

    uri: str
    doc_id: str
    first_page: int
    last_page: int
    dpi: int
    max_pixels: int
    password: str | None
    pixels: bool = True  # whether they are wanted, or only what else there is to say of a page


class Lost(Exception):
    """The process died, or took too long.

    Attributes:
        timeout: it took too long, and lives.
        fetching: it had not got the document's bytes yet.
        at_page: it was at a page; otherwise the document was not open yet.
    """

    def __init__(self, state: str, seconds: float | None) -> None:
        doing = {"asked": "fetching this document", "fetched": "opening this document"}.get(
            state, "rendering this page"
        )
        if seconds is None:
            super().__init__(f"the process {doing} died again and again (out of memory, or a crash)")
        else:
            super().__init__(f"{doing} took longer than {seconds:g} s")
        self.timeout = seconds is not None
        self.fetching = state == "asked"
        self.at_page = state == "opened"


class RendererProcess:
    """``python -m rtprune.documents.renderer``, started when it is first asked, and again after it was killed.

    All but ``end`` is for one thread.
    """

    _exchange: Exchange  # with the process that there is

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = bytearray()
        self._pages = 0
        self._ended = False

    def answers(self, ask: Ask, page_timeout_s: float) -> Iterator[PageImage | PageFault]:
        """The pages asked for, in order. To be taken to the end, or the process killed.

        Raises:
            Lost: the process died, or was silent for longer than ``page_timeout_s``.
            StoreError: the store failed; trying again may help.
            UsageError: the document needs another password.
        """
        if self._pages >= PAGES_PER_PROCESS:
            self.kill()
        state, pages = "asked", range(ask.first_page, ask.last_page + 1)
        try:
            process = self._started()
            self._say(process, json.dumps(asdict(ask)).encode())
            while state != "opened":
                limit = FETCH_TIMEOUT_S if state == "asked" else page_timeout_s
                answer = self._answer(process, limit)
                if "raised" in answer:
                    raise _RAISED.get(answer["raised"], RTPruneError)(answer["message"], answer["hint"])
                if "refused" in answer:
                    yield from (PageFault(page, Reason(answer["refused"]), answer["message"], 0.0) for page in pages)
                    return
                state = answer["state"]
            limit = page_timeout_s
            for _ in pages:
                answer = self._answer(process, limit)
                self._pages += 1
                yield self._page(process, answer)
        except TimeoutError as error:
            raise Lost(state, limit) from error
        except (EOFError, OSError) as error:
            raise Lost(state, None) from error

    def kill(self) -> None:
        """End the process, whatever it is at; the next question starts another."""
        if self._process is None:
            return
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self._process.wait()
        self._exchange.close()
        self._process, self._pages = None, 0
        self._unread.clear()

    def end(self) -> None:
        """From any thread: end the process and start none again; whoever waits for an answer sees it die."""
        self._ended = True
        if self._process is not None:
            self._process.kill()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._ended:
            raise EOFError
        if self._process is None:
            exchange = Exchange()
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "rtprune.documents.renderer", str(exchange.file)],
                    pass_fds=[exchange.file],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                )
            except OSError:
                exchange.close()
                raise
            self._exchange = exchange
        return self._process

    def _answer(self, process: subprocess.Popen[bytes], timeout_s: float) -> dict[str, Any]:
        """The next line. Raises ``TimeoutError``, ``EOFError``."""
        deadline = time.monotonic() + timeout_s
        while (end := self._unread.find(b"\n")) < 0:
            self._unread += self._read(process, deadline)
        answer: dict[str, Any] = json.loads(self._unread[:end])
        del self._unread[: end + 1]
        return answer

    def _read(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        assert process.stdout is not None
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        found = os.read(process.stdout.fileno(), CHUNK_BYTES)
        if not found:
            raise EOFError
        return found

    def _page(self, process: subprocess.Popen[bytes], answer: dict[str, Any]) -> PageImage | PageFault:
        if "fault" in answer:
            return PageFault(answer["page"], Reason(answer["fault"]), answer["message"], answer["render_ms"])
        raster = Raster(answer["width"], answer["height"], self._exchange.read(answer["bytes"]))
        if answer["bytes"]:
            self._say(process, b"")
        return PageImage(answer["page"], raster, answer["render_ms"], answer["scale"], answer["text_layer"])

    def _say(self, process: subprocess.Popen[bytes], line: bytes) -> None:
        stdin: Any = process.stdin
        stdin.write(line + b"\n")
        stdin.flush()
