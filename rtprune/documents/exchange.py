"""Memory that a renderer and its reader share: a page's pixels cost a copy on either side, and no pipe."""

from __future__ import annotations

import mmap
import os


class Exchange:
    """Room for one picture's bytes, which grows as needed; nobody but its two ends can see it.

    Args:
        file: descriptor of the memory; made anew when absent. It goes with the object.
    """

    def __init__(self, file: int | None = None) -> None:
        self.file = os.memfd_create("page") if file is None else file
        self._map: mmap.mmap | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Put bytes there, in place of those before."""
        if os.fstat(self.file).st_size < len(data):
            os.ftruncate(self.file, len(data))
        self._mapped(len(data))[: len(data)] = data

    def read(self, size: int) -> bytes:
        """A copy of the first ``size`` bytes there."""
        return self._mapped(size)[:size] if size else b""

    def close(self) -> None:
        """Let go of it."""
        if self._map is not None:
            self._map.close()
        os.close(self.file)

    def _mapped(self, size: int) -> mmap.mmap:
        if self._map is None or len(self._map) < size:
            if self._map is not None:
                self._map.close()
            self._map = mmap.mmap(self.file, os.fstat(self.file).st_size)
        return self._map
