"""Temporary folders that are removed even when their process is killed: the next one that needs a folder does it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch() -> Iterator[str]:
    """A folder for the length of the block, in a folder of this user below ``TMPDIR``.

    Its process holds a lock on it, which the system drops when the process ends, however it does.
    """
    home = Path(tempfile.gettempdir()) / f"rtprune-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.stat().st_uid != os.getuid():  # somebody else's, who may read what is in it
        home = Path(tempfile.mkdtemp(prefix="rtprune-"))
    with _locked(home):  # nobody takes the folder for one that was left before it is locked
        _remove_left(home)
        folder = tempfile.mkdtemp(dir=home)
        lock = _lock(folder, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_left(home: Path) -> None:
    for folder in home.iterdir():
        try:
            lock = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # at work, or gone just now
            continue
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = _lock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(lock)


def _lock(folder: str | Path, how: int) -> int:
    """A descriptor that holds a lock on ``folder`` until it is closed. Raises ``OSError``."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
