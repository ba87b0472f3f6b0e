"""The program that renders pages apart from whoever reads them, so that it can be killed: see ``rendering``.

It takes requests from standard input, a line of JSON each, and answers on standard output with lines of JSON: one once
the document's bytes are there, one once it is open, and one for each page; or one that tells why not. A page's pixels
lie in the memory whose descriptor is its argument, until an empty line says that they were taken.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, BinaryIO

from rtprune.documents.document import open_planned, read_object
from rtprune.documents.exchange import Exchange
from rtprune.documents.pages import PageFault, PageImage, open_pages
from rtprune.errors import DocumentError, RTPruneError

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer requests until standard input ends."""
    # a renderer that hangs would outlive a parent that is killed
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # whatever a library prints must not come between the answers
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    client = _Client(sys.stdin.buffer, answers, Exchange(int(sys.argv[1])))
    opened = _Opened()
    while line := client.asked():
        _serve(opened, json.loads(line), client)


class _Client:
    """Whoever sends the requests."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO, exchange: Exchange) -> None:
        self._requests = requests
        self._answers = answers
        self._exchange = exchange
        self._untaken = False

    def asked(self) -> bytes:
        """The next request; empty when there will be none."""
        self._await_taken()
        return self._requests.readline()

    def tell(self, **facts: Any) -> None:
        """Answer."""
        self._answers.write(json.dumps(facts).encode() + b"\n")
        self._answers.flush()

    def give(self, data: bytes | memoryview, **facts: Any) -> None:
        """Answer with pixels, if any, once those before were taken."""
        self._await_taken()
        if data:
            self._exchange.write(data)
            self._untaken = True
        self.tell(bytes=len(data), **facts)

    def _await_taken(self) -> None:
        if self._untaken:
            self._requests.readline()
            self._untaken = False


def _serve(opened: _Opened, request: dict[str, Any], client: _Client) -> None:
    try:
        render = opened.document(request, client)
    except DocumentError as error:
        client.tell(refused=error.reason, message=str(error))
        return
    except RTPruneError as error:
        client.tell(raised=type(error).__name__, message=error.message, hint=error.hint)
        return
    client.tell(state="opened")
    for page in range(request["first_page"], request["last_page"] + 1):
        found = render(page)
        facts: dict[str, Any] = {"page": page, "render_ms": found.render_ms}
        if isinstance(found, PageFault):
            client.tell(fault=found.reason, message=found.message, **facts)
            continue
        facts |= {"width": found.width, "height": found.height, "scale": found.scale, "text_layer": found.text_layer}
        client.give(found.raster.data if request["pixels"] else b"", **facts)


class _Opened:
    """The document of the latest request, kept open because the next request is often for more of it."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._stack = ExitStack()
        self._render: Callable[[int], PageImage | PageFault] | None = None

    def document(self, request: dict[str, Any], client: _Client) -> Callable[[int], PageImage | PageFault]:
        """What renders a page of the request's document. Raises as ``read_object`` and ``open_planned``."""
        uri, doc_id, password, dpi, max_pixels = key = tuple(
            request[name] for name in ("uri", "doc_id", "password", "dpi", "max_pixels")
        )
        if key != self._key or self._render is None:
            self._key, self._render = (), None
            self._stack.close()
            data = read_object(uri)
            client.tell(state="fetched")
            document = open_planned(uri, data, doc_id, password)
            self._render = self._stack.enter_context(open_pages(document, dpi, max_pixels))
            self._key = key
        else:
            client.tell(state="fetched")
        return self._render


if __name__ == "__main__":
    main()
