"""Writing whole files on local disks, so that a killed writer leaves the old file, the new one, or none."""

from __future__ import annotations

import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def read(path: str) -> bytes:
    """The whole file. Raises ``FileNotFoundError``."""
    with open(path, "rb") as file:
        return file.read()


def write(path: str, data: bytes) -> None:
    """Write ``path`` whole, in place of what is there."""
    with _written_aside(path, data) as aside:
        os.replace(aside, path)


def create(path: str, data: bytes) -> bool:
    """Write ``path`` whole unless it exists. Of any number of racers exactly one gets ``True``."""
    with _written_aside(path, data) as aside:
        try:
            os.link(aside, path)  # fails if the name is taken, and never shows half a file
        except FileExistsError:
            return False
    return True


def replace(path: str, data: bytes, version: str) -> bool:
    """Write ``path`` whole if it still holds the bytes whose ``version_of`` is ``version``."""
    try:
        with locked(path), _written_aside(path, data) as aside:
            if version_of(read(path)) != version:
                return False
            os.replace(aside, path)
            return True
    except (FileNotFoundError, NotADirectoryError):  # deleted meanwhile
        return False


def remove(path: str) -> None:
    """Delete ``path``, but not between the two steps of a ``replace``. Raises ``FileNotFoundError``."""
    with locked(path):
        os.remove(path)


def version_of(data: bytes) -> str:
    """What tells the content of a file from every other."""
    return hashlib.sha256(data).hexdigest()


def is_ours(name: str) -> bool:
    """Whether a file of this name is one of these functions' own: half written, or a lock."""
    return name.startswith(".") and name.endswith((".part", ".lock"))


@contextmanager
def _written_aside(path: str, data: bytes) -> Iterator[str]:
    """A file with ``data`` beside ``path``, gone afterwards; hidden, so that readers of the folder pass over what a
    killed writer left."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    aside = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.part")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        with suppress(FileNotFoundError):
            os.remove(aside)


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Alone with ``path`` among all who lock it. The system drops the lock of a process that dies; the empty lock file
    that it leaves is used, and removed, by the next."""
    folder, name = os.path.split(path)
    lock = os.path.join(folder, f".{name}.lock")
    while True:
        held = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            if not _is_at(held, lock):  # whoever held it before has removed the file
                continue
            try:
                yield
            finally:
                os.remove(lock)
            return
        finally:
            os.close(held)


def _is_at(descriptor: int, path: str) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)
