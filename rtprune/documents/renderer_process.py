"""One process that renders pages, from the side of those who ask it."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

from rtprune.documents.page import PageFault, PageImage
from rtprune.documents.raster import Raster
from rtprune.documents.shared_bytes import take_bytes
from rtprune.errors import Reason, StoreError, UsageError

START_TIMEOUT_S = 600.0  # importing takes a second, on a machine that swaps a minute
PAGES_PER_PROCESS = 2000  # then it is replaced, and whatever it has leaked goes with it


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """How pages are rendered, see ``Renderers``."""

    dpi: int
    max_pixels: int
    password: str | None
    pixels: bool


class Lost(Exception):
    """The process died, or took too long.

    Attributes:
        timeout: it took too long, and lives.
        at_page: it was at a page; otherwise the document was not open yet.
    """

    def __init__(self, at_page: bool, timeout_s: float | None) -> None:
        doing = "rendering this page" if at_page else "opening this document"
        if timeout_s is None:
            super().__init__(f"the process {doing} died again and again (out of memory, or a crash)")
        else:
            super().__init__(f"{doing} took longer than {timeout_s:g} s")
        self.timeout = timeout_s is not None
        self.at_page = at_page


class RendererProcess:
    """``python -m rtprune.documents.renderer``, started when it is first asked, and again after it was killed.

    How long it takes to start does not count against the document. All but ``end`` is for one thread.

    Args:
        settings: the same for all pages.
        timeout_s: for opening a document, and for each page.
    """

    def __init__(self, settings: RenderSettings, timeout_s: float) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._opened: tuple[str, str] | None = None  # URI and doc_id; kept open, the next request is often for it
        self._pages = 0
        self._ended = False

    _connection: Connection  # with the process that there is

    def pages(
        self, uri: str, doc_id: str, file: int, numbers: range, more: Callable[[], bool]
    ) -> Iterator[PageImage | PageFault]:
        """Pages ``numbers`` of the document whose bytes ``file`` holds, in order. To be taken to the end.

        Args:
            uri: what the document is called.
            doc_id: SHA-256 of its bytes.
            file: descriptor, see ``share_bytes``.
            numbers: at least one page.
            more: asked ahead of each page but the first; where it says no, the pages end there.

        Raises:
            Lost: the process died, or was silent for too long. It is to be killed.
            UsageError: the document needs another password.
            StoreError: no process could be started in time, which is not the document's fault.
        """
        at_page = False
        try:
            refused = self._open(uri, doc_id, file)
            if refused is not None:
                yield from (PageFault(page, *refused, 0.0) for page in numbers)
                return
            at_page = True
            self._send(page=numbers[0])
            for page in numbers:
                go_on = page != numbers[-1] and more()
                if go_on:
                    self._send(page=page + 1)  # it is at work while this side takes the page before
                yield self._page()
                if not go_on:
                    return
        except TimeoutError as error:
            raise Lost(at_page, self._timeout_s) from error
        except (EOFError, OSError) as error:
            raise Lost(at_page, None) from error

    def kill(self) -> None:
        """End the process, whatever it is at; the next question starts another."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._process, self._opened, self._pages = None, None, 0

    def end(self) -> None:
        """From any thread: end the process and start none again; whoever waits for an answer sees it die."""
        self._ended = True
        if (process := self._process) is not None:
            process.kill()

    def _open(self, uri: str, doc_id: str, file: int) -> tuple[Reason, str] | None:
        """Have the document open there; why not, where it is refused."""
        if self._pages >= PAGES_PER_PROCESS:
            self.kill()
        if self._opened == (uri, doc_id):
            return None
        self._start()
        self._opened = None
        self._send(uri=uri, **asdict(self._settings))
        send_handle(self._connection, file, None)
        answer = self._answer(self._timeout_s)
        if answer.get("refused") == Reason.ENCRYPTED:
            raise UsageError(
                f"{uri} is encrypted, and was opened with another password when it was planned",
                "run again with that --password",
            )
        if "refused" in answer:
            return Reason(answer["refused"]), answer["message"]
        self._opened = uri, doc_id
        return None

    def _start(self) -> None:
        if self._process is None and not self._ended:
            self._connection, theirs = multiprocessing.Pipe()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "rtprune.documents.renderer", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what libraries print is no output of this program
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                )
            try:
                self._answer(START_TIMEOUT_S)
            except TimeoutError as error:
                message = f"a renderer did not start within {START_TIMEOUT_S:g} s"
                raise StoreError(message, "this machine has too much to do") from error
        if self._ended:  # after it was started, too: ``end`` may have come between
            self.kill()
            raise EOFError

    def _page(self) -> PageImage | PageFault:
        answer = self._answer(self._timeout_s)
        self._pages += 1
        page, render_ms = answer["page"], answer["render_ms"]
        if "reason" in answer:
            return PageFault(page, Reason(answer["reason"]), answer["message"], render_ms)
        data = take_bytes(recv_handle(self._connection)) if "pixels" in answer else b""
        raster = Raster(answer["width"], answer["height"], data)
        return PageImage(page, raster, render_ms, answer["scale"], answer["text_layer"])

    def _send(self, **request: Any) -> None:
        self._connection.send_bytes(json.dumps(request).encode())

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        """The next answer. Raises ``TimeoutError``, and ``EOFError`` or ``OSError`` where the process has died."""
        if not self._connection.poll(timeout_s):
            raise TimeoutError
        answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        return answer
