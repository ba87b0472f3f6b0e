"""Bytes handed from process to process: written once into memory that every process given its descriptor can read.

The memory has no name and is freed with its last descriptor or mapping, so nothing is left behind when a process is
killed.
"""

from __future__ import annotations

import fcntl
import mmap
import os

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def share_bytes(data: bytes | memoryview) -> int:
    """Descriptor of new memory that holds ``data`` and that nobody can change any more. The caller closes it."""
    file = os.memfd_create("rtprune", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[os.write(file, rest) :]
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(file)
        raise
    return file


def map_bytes(file: int) -> memoryview:
    """What ``file`` holds, read in place. It outlives ``file``, which stays open."""
    size = os.fstat(file).st_size
    return memoryview(mmap.mmap(file, size, prot=mmap.PROT_READ) if size else b"")


def take_bytes(file: int) -> bytes:
    """A copy of what ``file`` holds; closes ``file``."""
    with open(file, "rb", buffering=0) as memory:
        memory.seek(0)
        return memory.readall()
