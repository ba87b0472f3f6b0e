"""What becomes of every unit: states and transitions, without Ray, store or clock.

A worker has several units at a time, so its death names no culprit. Only a unit that was alone with its worker is
charged, and only its parts (pages, or objects) that fail alone are lost. What fails every unit ends the run instead.

==========  ==================================================  =========================================
state       what happens                                        next
==========  ==================================================  =========================================
waiting     a worker takes it                                   in flight
in flight   done                                                done
in flight   its worker is lost, or it raises, beside others     suspect
in flight   its worker is lost, alone                           charged
in flight   it raises ``StoreError``                            charged
in flight   it raises any other error of ours                   the run ends with it
in flight   it raises what no document should cause, alone      failed
in flight   its worker gives it back                            waiting
suspect     a worker that has nothing else takes it             in flight, alone
charged     fewer than ``max_attempts`` times                   suspect; waiting after a ``StoreError``
charged     ``max_attempts`` times                              failed
failed      it is one of three, and nothing was done between    the run ends
failed      something is done, or nothing else is left          divided; postponed after a ``StoreError``
divided     each part goes the way of a suspect                 done, with a row or a failure for each part
divided     a part fails by ``StoreError``                      postponed
==========  ==================================================  =========================================

Done and postponed units leave the queue through ``ended``. A postponed one stays for the next run, and so does, after
a stop, whatever is not in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from rtprune.errors import Reason, RTPruneError, StoreError, unexpected

U = TypeVar("U")
R = TypeVar("R")

FAILURES_IN_A_ROW = 3

LostReason = Literal["worker-died", "timeout"]

_LOST = {
    "worker-died": "the process reading this died {attempts} times (out of memory, or a crash)",
    "timeout": "this was not read within the time allowed, {attempts} times",
}


@dataclass(eq=False, slots=True)
class Task(Generic[U]):
    """A unit, or one part of it, for a worker.

    Attributes:
        part: number of the part, from 0; ``None`` for the whole unit.
        alone: whether its worker must have nothing else meanwhile.
        charged: how often it was tried and failed by itself.
    """

    unit: U
    part: int | None = None
    alone: bool = False
    charged: int = 0
    whole: Task[U] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a unit or a part was given up; ``error`` where it raised one."""

    reason: Reason
    message: str
    attempts: int
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Ended(Generic[U, R]):
    """A unit that has left the queue.

    Attributes:
        result: of a unit that was done whole.
        parts: of a unit that was divided: what each part gave, or why it is lost.
        postponed: why a unit is left for the next run.
    """

    unit: U
    result: R | None = None
    parts: Sequence[R | Failure] = ()
    postponed: StoreError | None = None


@dataclass(slots=True)
class _Divided(Generic[R]):
    count: int
    results: dict[int, R | Failure] = field(default_factory=dict)


class UnitQueue(Generic[U, R]):
    """The units of a run on their way from the plan to their end.

    Args:
        units: taken as workers have room.
        parts: how many parts a unit has.
        max_attempts: a unit or part that fails so often alone is given up.
        failures_in_a_row: so many units that fail one after the other end the run; ``None`` for never.
    """

    def __init__(
        self,
        units: Iterator[U],
        parts: Callable[[U], int],
        *,
        max_attempts: int = 2,
        failures_in_a_row: int | None = FAILURES_IN_A_ROW,
    ) -> None:
        self._units = units
        self._count = parts
        self._max_attempts = max_attempts
        self._failures_in_a_row = failures_in_a_row
        self._exhausted = self._stopped = False
        self._again: deque[Task[U]] = deque()  # may share a worker
        self._suspects: deque[Task[U]] = deque()
        self._parts: deque[Task[U]] = deque()
        self._failed: list[tuple[Task[U], Failure]] = []  # units, since the last success
        self._divided: dict[Task[U], _Divided[R]] = {}
        self._parts_lost_in_a_row = 0
        self._any_done = False
        self.in_flight = 0
        self.ended: deque[Ended[U, R]] = deque()
        self.divided: deque[tuple[U, Failure]] = deque()  # and why, for whoever wants to say so

    @property
    def finished(self) -> bool:
        """Whether every unit has ended."""
        if not (self.in_flight or self.waiting or self._exhausted):
            self._take_one()
        self._divide_if_nothing_is_left()
        return self._exhausted and not (self.in_flight or self.waiting)

    @property
    def waiting(self) -> int:
        """Tasks that wait to be tried again, or alone; none after a stop."""
        return 0 if self._stopped else len(self._again) + len(self._suspects) + len(self._parts)

    def take(self, *, idle: bool) -> Task[U] | None:
        """The next task for a worker; ``None`` where there is none for it now.

        Nothing more is given to workers that have something while a task waits for one of them to have nothing.

        Args:
            idle: whether the worker has no other task.
        """
        task = self._next(idle=idle)
        self.in_flight += task is not None
        return task

    def done(self, task: Task[U], result: R, *, proves: bool = True) -> None:
        """A task is done.

        Args:
            proves: whether this shows that units can be done at all.
        """
        self.in_flight -= 1
        if proves:
            self._any_done, self._parts_lost_in_a_row = True, 0
            self._divide_failed()
        if task.whole is None:
            self.ended.append(Ended(task.unit, result))
        else:
            self._record(task, result)

    def raised(self, task: Task[U], error: BaseException, *, alone: bool) -> None:
        """A task has raised an error; its worker lives on.

        Args:
            alone: whether its worker had no other task.

        Raises:
            RTPruneError: ``error``, if it is of a kind that no other unit will escape; or one that says that unit
                after unit fails.
        """
        self.in_flight -= 1
        if isinstance(error, StoreError):
            failure = Failure(Reason.UNREACHABLE, str(error), task.charged + 1, error)
            self._charge(task, failure, again=self._again)
        elif isinstance(error, RTPruneError):
            raise error
        elif not alone:
            self._suspect(task)
        else:
            task.charged += 1
            self._fail(task, Failure(Reason.UNEXPECTED, unexpected(error), task.charged, error))

    def lost(self, tasks: Sequence[Task[U]], reason: LostReason) -> None:
        """A worker is gone with all ``tasks`` that it had. Raises as `raised`."""
        self.in_flight -= len(tasks)
        for task in tasks:
            if len(tasks) > 1:
                self._suspect(task)
            else:
                attempts = task.charged + 1
                failure = Failure(Reason(reason), _LOST[reason].format(attempts=attempts), attempts)
                self._charge(task, failure, again=self._suspects)

    def returned(self, task: Task[U]) -> None:
        """A worker gives a task back undone."""
        self.in_flight -= 1
        (self._suspects if task.alone else self._again).appendleft(task)

    def stop(self) -> None:
        """Begin nothing more, and divide nothing: what is not in flight is left for the next run."""
        self._exhausted = self._stopped = True

    def _next(self, *, idle: bool) -> Task[U] | None:
        if self._stopped:
            return None
        self._divide_if_nothing_is_left()
        if idle and self._suspects:
            return self._suspects.popleft()
        # where parts fail one after the other a whole unit shows whether it is they or everything
        probing = self._parts_lost_in_a_row >= FAILURES_IN_A_ROW and not self._exhausted
        if idle and self._parts and not probing:
            return self._parts.popleft()
        if not idle and (self._suspects or self._parts):
            return None
        if not (self._again or self._exhausted):
            self._take_one()
        if self._again:
            self._parts_lost_in_a_row = 0
            return self._again.popleft()
        return self._parts.popleft() if idle and self._parts else None

    def _take_one(self) -> None:
        for unit in self._units:
            self._again.append(Task(unit))
            return
        self._exhausted = True

    def _suspect(self, task: Task[U]) -> None:
        task.alone = True
        self._suspects.append(task)

    def _charge(self, task: Task[U], failure: Failure, again: deque[Task[U]]) -> None:
        task.charged = failure.attempts
        if task.charged >= self._max_attempts:
            self._fail(task, failure)
            return
        task.alone = task.alone or again is self._suspects
        (self._suspects if task.alone else again).append(task)

    def _fail(self, task: Task[U], failure: Failure) -> None:
        if task.whole is not None:
            self._lose(task, failure)
            return
        self._failed.append((task, failure))
        if self._failures_in_a_row is None:
            self._divide_failed()
        elif len(self._failed) >= self._failures_in_a_row:
            if isinstance(failure.error, StoreError):
                raise failure.error
            raise RTPruneError(
                f"{len(self._failed)} units in a row could not be read; the last one: {failure.message}",
                "this is no single document's fault; mend it and run again",
            )

    def _divide_if_nothing_is_left(self) -> None:
        if self._exhausted and not (self._stopped or self.in_flight or self.waiting):
            self._divide_failed()

    def _divide_failed(self) -> None:
        failed, self._failed = self._failed, []
        for task, failure in failed:
            if isinstance(failure.error, StoreError):
                self.ended.append(Ended(task.unit, postponed=failure.error))
                continue
            if self._stopped:
                continue
            count = self._count(task.unit)
            self.divided.append((task.unit, failure))
            self._divided[task] = _Divided(count)
            parts = [Task(task.unit, part, alone=True, whole=task) for part in range(count)]
            if count == 1:
                self._lose(parts[0], failure)
            else:
                self._parts.extend(parts)

    def _lose(self, part: Task[U], failure: Failure) -> None:
        """A part that fails even alone."""
        whole = part.whole or part
        if isinstance(failure.error, StoreError):
            if self._divided.pop(whole, None) is not None:
                self._drop_parts(whole)
                self.ended.append(Ended(whole.unit, postponed=failure.error))
            return
        self._parts_lost_in_a_row += 1
        if self._parts_lost_in_a_row >= FAILURES_IN_A_ROW and self._exhausted and not self._any_done:
            for rest in self._drop_parts(whole):  # nothing could ever be read: each further try costs a worker
                self._record(rest, failure)
        self._record(part, failure)

    def _drop_parts(self, whole: Task[U]) -> list[Task[U]]:
        dropped = [task for task in (*self._parts, *self._suspects) if task.whole is whole]
        self._parts = deque(task for task in self._parts if task.whole is not whole)
        self._suspects = deque(task for task in self._suspects if task.whole is not whole)
        return dropped

    def _record(self, part: Task[U], result: R | Failure) -> None:
        whole = part.whole or part
        divided = self._divided.get(whole)
        if divided is None or part.part is None:  # postponed meanwhile
            return
        divided.results[part.part] = result
        if len(divided.results) == divided.count:
            del self._divided[whole]
            self.ended.append(Ended(whole.unit, parts=_in_order(divided.results)))


def _in_order(results: Mapping[int, R | Failure]) -> list[R | Failure]:
    return [results[part] for part in sorted(results)]
