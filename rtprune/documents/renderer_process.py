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

from rtprune.documents.pages import PageFault, PageImage
from rtprune.documents.raster import Raster
from rtprune.errors import RTPruneError, StoreError, UsageError

FETCH_TIMEOUT_S = 1800.0  # s3fs gives up long before
PAGES_PER_PROCESS = 2000  # then it is replaced, and whatever it has leaked goes with it
HEADER_BYTES = 2**16
PIPE_BYTES = 2**20  # the most that Linux gives without asking

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
            stdin: Any = process.stdin
            stdin.write(json.dumps(asdict(ask)).encode() + b"\n")
            stdin.flush()
            while state != "opened":
                limit = FETCH_TIMEOUT_S if state == "asked" else page_timeout_s
                header, _ = self._frame(process, limit)
                if "raised" in header:
                    raise _RAISED.get(header["raised"], RTPruneError)(header["message"], header["hint"])
                if "refused" in header:
                    yield from (PageFault(page, header["refused"], header["message"], 0.0) for page in pages)
                    return
                state = header["state"]
            limit = page_timeout_s
            for _ in pages:
                header, data = self._frame(process, limit)
                self._pages += 1
                yield _page(header, data)
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
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rtprune.documents.renderer"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                pipesize=PIPE_BYTES,
            )
        return self._process

    def _frame(self, process: subprocess.Popen[bytes], timeout_s: float) -> tuple[dict[str, Any], bytearray]:
        """The next header and its data. Raises ``TimeoutError``, ``EOFError``."""
        deadline = time.monotonic() + timeout_s
        while (end := self._unread.find(b"\n")) < 0:
            chunk = bytearray(HEADER_BYTES)
            self._unread += chunk[: self._read(process, deadline, memoryview(chunk))]
        header: dict[str, Any] = json.loads(self._unread[:end])
        data = bytearray(int(header["bytes"]))
        begun = self._unread[end + 1 : end + 1 + len(data)]
        del self._unread[: end + 1 + len(begun)]
        got = len(begun)
        data[:got] = begun
        while got < len(data):
            got += self._read(process, deadline, memoryview(data)[got:])
        return header, data

    def _read(self, process: subprocess.Popen[bytes], deadline: float, into: memoryview) -> int:
        assert process.stdout is not None
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        found = os.readv(process.stdout.fileno(), [into])
        if not found:
            raise EOFError
        return found


def _page(header: dict[str, Any], data: bytearray) -> PageImage | PageFault:
    if "fault" in header:
        return PageFault(header["page"], header["fault"], header["message"], header["render_ms"])
    raster = Raster(header["width"], header["height"], data)
    return PageImage(header["page"], raster, header["render_ms"], header["scale"], header["text_layer"])
