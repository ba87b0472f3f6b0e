"""The program that renders pages apart from whoever reads them, so that it can be killed: see ``renderers``.

It is given one end of a socket, where it sends a JSON message once it has started and one in answer to each request. A
request with a ``uri`` brings the descriptor of a document's bytes and is answered once the document is open, or
refused; one with a ``page`` is answered with that page of it, whose pixels come as another descriptor.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

from rtprune.documents.page import PageFault, PageImage
from rtprune.documents.pages import open_pages
from rtprune.documents.shared_bytes import map_bytes, share_bytes
from rtprune.errors import DocumentError

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer requests until the other end closes."""
    # a renderer that hangs would outlive a parent that is killed
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    renderer = _Renderer(Connection(int(sys.argv[1])))
    with suppress(EOFError, ConnectionError):
        renderer.send()
        while True:
            renderer.answer()


class _Renderer:
    """One document open at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._document = ExitStack()
        self._render: Callable[[int], PageImage | PageFault]
        self._pixels = True

    def answer(self) -> None:
        """Wait for a request and answer it. Raises ``EOFError`` when there will be none."""
        request = json.loads(self._connection.recv_bytes())
        if "uri" in request:
            self._open(**request)
        else:
            self._send_page(self._render(request["page"]))

    def _open(self, uri: str, password: str | None, dpi: int, max_pixels: int, pixels: bool) -> None:
        self._document.close()
        file = recv_handle(self._connection)
        try:
            data = map_bytes(file)
        finally:
            os.close(file)
        self._pixels = pixels
        try:
            self._render = self._document.enter_context(open_pages(uri, data, password, dpi, max_pixels))
        except DocumentError as error:
            self.send(refused=error.reason, message=str(error))
        else:
            self.send()

    def _send_page(self, page: PageImage | PageFault) -> None:
        facts: dict[str, Any] = {"page": page.page, "render_ms": page.render_ms}
        if isinstance(page, PageFault):
            self.send(reason=page.reason, message=page.message, **facts)
            return
        facts |= {"width": page.width, "height": page.height, "scale": page.scale, "text_layer": page.text_layer}
        if not self._pixels:
            self.send(**facts)
            return
        file = share_bytes(page.raster.data)
        try:
            self.send(pixels=True, **facts)
            send_handle(self._connection, file, None)
        finally:
            os.close(file)

    def send(self, **facts: Any) -> None:
        """Send a message."""
        self._connection.send_bytes(json.dumps(facts).encode())


if __name__ == "__main__":
    main()
