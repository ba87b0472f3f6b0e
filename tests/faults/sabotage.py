"""What befalls a driver or a worker from within, at a step that a test names."""

from __future__ import annotations

import errno
import importlib
import itertools
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from functools import partial
from typing import Any, Literal

from rtprune.corpus import run
from rtprune.corpus.values import Assignment, Receipt
from rtprune.corpus.worker import Worker
from rtprune.dataset import layout, snapshot

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


def dies_publishing(function: str, name: str, moment: Moment, witness: str) -> None:
    """The same, once all is read."""
    when_publishing(partial(dies_at, function, name, moment, witness))


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
    """This process finds it an hour later or earlier at every look at the clock.

    Ray does not: it would stop waiting for its cluster.
    """
    jumps, now = itertools.cycle((3600.0, -3600.0, 0.0)), time.time

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(seconds=next(jumps))

    def jumping() -> float:
        asked_by = sys._getframe(1).f_globals.get("__name__", "")
        return now() + (0.0 if asked_by.partition(".")[0] == "ray" else next(jumps))

    time.time = jumping
    for module in (run, layout, snapshot):
        module.datetime = Jumping


def reads_with(worker: type[Worker]) -> None:
    """The workers of this driver are of another class."""
    run.Worker = worker


def when_publishing(befall: Callable[[], None]) -> None:
    """``befall`` this driver once all is read."""
    inner = run.publish

    def publish(*given: Any) -> Any:
        befall()
        return inner(*given)

    run.publish = publish


def dies_at_a_unit_of_its_own(moment: Moment, witness: str) -> None:
    """A driver that has pages read one by one, and so commits their unit itself, is killed as it does so."""
    reads_with(FailingAtUnits)
    dies_at(CREATE, "/pages/", moment, witness)


#: What a unit is committed with.
CREATE = "rtprune.dataset.files.create_if_absent"


class FailingAtUnits(Worker):
    """Cannot read the first document's units, but any of their pages alone."""

    def work(self, assignment: Assignment) -> Receipt:
        if assignment.page is None and "document-00" in assignment.slices[0].uri:
            raise RuntimeError("a bug")
        return super().work(assignment)


class DyingAtUnits(Worker):
    """The first process is killed before its first commit, the second after; witnesses lie beside OUTPUT."""

    def ready(self) -> None:
        super().ready()
        moment: Moment = "after" if os.path.exists(f"{self._output.uri}.before") else "before"
        dies_at(CREATE, "/pages/", moment, f"{self._output.uri}.{moment}")


class WithoutRoomForUnits(Worker):
    """Its disk is full once pages are read."""

    def ready(self) -> None:
        super().ready()
        no_room_for("/pages/")


class Strange(Worker):
    """Logs a warning as it starts."""

    def ready(self) -> None:
        super().ready()
        logging.getLogger("rtprune.corpus.worker").warning("this page is strange")


class Counting(Worker):
    """Leaves a line beside OUTPUT for every unit that it reads, whoever commits it."""

    def work(self, assignment: Assignment) -> Receipt:
        receipt = super().work(assignment)
        if receipt.outcome in ("committed", "doubled"):
            with open(f"{self._output.uri}.read", "a") as file:
                file.write(f"{assignment.unit.unit_id} {self._run_id}\n")
        return receipt
