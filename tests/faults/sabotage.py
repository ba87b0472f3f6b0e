"""What befalls a driver or a worker from within, at a step that a test names."""

from __future__ import annotations

import errno
import importlib
import itertools
import os
import signal
import time
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from typing import Literal

from rtprune.corpus import reading, steps
from rtprune.corpus.assignment import Assignment, Receipt
from rtprune.corpus.worker import Worker
from rtprune.dataset import output, plan

Moment = Literal["before", "after"]


def dies_at(function: str, name: str, moment: Moment, witness: str) -> None:
    """This process is killed as it calls ``function`` (of a module) for a URI with ``name`` in it, for the first time.

    Of all processes told so only one dies: the one that creates the file ``witness``, of what was to be written.
    """
    module, _, attribute = function.rpartition(".")
    place = importlib.import_module(module)
    inner: Callable[[str, bytes], object] = getattr(place, attribute)

    def deadly(uri: str, data: bytes) -> object:
        if name not in uri or not _first(witness, data):
            return inner(uri, data)
        if moment == "after":
            inner(uri, data)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(place, attribute, deadly)


def _first(witness: str, data: bytes) -> bool:
    try:
        with open(witness, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def no_room_for(name: str) -> None:
    """This process finds the disk full for files with ``name`` in their paths."""
    sync = os.fsync

    def full(descriptor: int) -> None:
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    os.fsync = full


def clock_jumps() -> None:
    """This process finds it an hour later or earlier at every look at the clock."""
    jumps, now = itertools.cycle((3600.0, -3600.0, 0.0)), time.time

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(seconds=next(jumps))

    time.time = lambda: now() + next(jumps)
    for module in (steps, output, plan):
        module.datetime = Jumping


def reads_with(reader: type[Worker]) -> None:
    """The workers of this driver are of another class."""
    reading.Worker = reader


def dies_at_a_marker_of_its_own(moment: Moment, witness: str) -> None:
    """A driver that has pages read one by one, and so commits their unit itself, is killed as it does so."""
    reads_with(FailingAtUnits)
    dies_at("rtprune.dataset.commit.create_if_absent", "/markers/", moment, witness)


class FailingAtUnits(Worker):
    """Cannot read the first document's units, but any of their pages alone."""

    def work(self, assignment: Assignment, attempt: int) -> Receipt:
        if assignment.page is None and "document-00" in assignment.slices[0].uri:
            raise RuntimeError("a bug")
        return super().work(assignment, attempt)


class DyingAtMarkers(Worker):
    """The first process is killed before its first marker, the second after; witnesses lie beside OUTPUT."""

    def ready(self) -> None:
        super().ready()
        moment: Moment = "after" if os.path.exists(f"{self._output.uri}.before") else "before"
        dies_at("rtprune.dataset.commit.create_if_absent", "/markers/", moment, f"{self._output.uri}.{moment}")


class WithoutRoomForMarkers(Worker):
    """Its disk is full once a data file is written."""

    def ready(self) -> None:
        super().ready()
        no_room_for("/markers/")
