"""The program that renders pages apart from whoever reads them, so that it can be killed: see ``rendering``.

It takes requests from standard input, a line of JSON each, and answers on standard output with frames: a line of JSON,
then as many raw bytes as it announces. A request is answered by a frame once the document's bytes are there, one once
it is open, and one for each page; or by one that tells why not.
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
from rtprune.documents.pages import PageFault, PageImage, open_pages
from rtprune.errors import DocumentError, RTPruneError

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer requests until standard input ends."""
    # a renderer that hangs would outlive a parent that is killed
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # whatever a library prints must not come between the frames
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    opened = _Opened()
    for line in sys.stdin.buffer:
        _serve(opened, json.loads(line), answers)


def _serve(opened: _Opened, request: dict[str, Any], answers: BinaryIO) -> None:
    try:
        render = opened.document(request, answers)
    except DocumentError as error:
        _send(answers, refused=error.kind, message=str(error))
        return
    except RTPruneError as error:
        _send(answers, raised=type(error).__name__, message=error.message, hint=error.hint)
        return
    _send(answers, state="opened")
    for page in range(request["first_page"], request["last_page"] + 1):
        found = render(page)
        if isinstance(found, PageFault):
            _send(answers, page=page, fault=found.kind, message=found.message, render_ms=found.render_ms)
        else:
            facts = {"page": page, "scale": found.scale, "render_ms": found.render_ms, "text_layer": found.text_layer}
            _send(answers, found.raster.data, width=found.width, height=found.height, **facts)


def _send(answers: BinaryIO, data: bytes | bytearray = b"", **header: Any) -> None:
    answers.write(json.dumps({**header, "bytes": len(data)}).encode() + b"\n")
    answers.write(data)
    answers.flush()


class _Opened:
    """The document of the latest request, kept open because the next request is often for more of it."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._stack = ExitStack()
        self._render: Callable[[int], PageImage | PageFault] | None = None

    def document(self, request: dict[str, Any], answers: BinaryIO) -> Callable[[int], PageImage | PageFault]:
        """What renders a page of the request's document. Raises as ``read_object`` and ``open_planned``."""
        uri, doc_id, password, dpi, max_pixels = key = tuple(
            request[name] for name in ("uri", "doc_id", "password", "dpi", "max_pixels")
        )
        if key != self._key or self._render is None:
            self._key, self._render = (), None
            self._stack.close()
            data = read_object(uri)
            _send(answers, state="fetched")
            document = open_planned(uri, data, doc_id, password)
            self._render = self._stack.enter_context(open_pages(document, dpi, max_pixels))
            self._key = key
        else:
            _send(answers, state="fetched")
        return self._render


if __name__ == "__main__":
    main()
