"""A supervisor that feeds units of work to Ray actors and accounts for every one of them.

It knows nothing of documents: an actor is anything with ``ready``, ``prepare``, ``work`` and ``pulse``. Ray's own
restarts and retries stay off, because they repeat a unit that kills its process for ever, or lose it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from rtprune.corpus.ray_cluster import Placement
from rtprune.errors import RTPruneError

U = TypeVar("U")
R = TypeVar("R")

LossReason = Literal["worker-died", "timeout", "not-ready"]

UNITS_IN_FLIGHT = 2  # one executing, one waiting at the actor, so that it never idles for the round trip
STARTS_BEFORE_GIVING_UP = 3
TICK_S = 1.0
IDLE_S = 20.0  # an actor with nothing to do makes room for others, such as those of another run
LOOK_AROUND_S = 15.0  # how often the cluster is asked how many workers it carries


@dataclass(frozen=True)
class Outcome(Generic[U, R]):
    """How one unit ended. Every unit given to a pool comes back in exactly one outcome, unless the pool was stopped.

    Attributes:
        unit: the unit.
        attempts: how often its execution was begun and charged to it, the last one included.
        result: what ``work`` returned when all went well, else ``None``.
        reason: ``None`` when all went well; "raised" (``error`` holds the exception), "worker-died" (the process
            executing it was lost ``max_attempts`` times) or "timeout" (it was killed for taking too long that often).
        error: the exception that ``work`` raised.
    """

    unit: U
    attempts: int
    result: R | None = None
    reason: Literal["raised", "worker-died", "timeout"] | None = None
    error: BaseException | None = None


@dataclass
class _Job(Generic[U]):
    unit: U
    attempts: int = 0  # finished ones; the running one is not counted yet
    ref: Any = None
    pulse: Any = None  # the latest one heard while it executed


@dataclass(eq=False)
class _Seat(Generic[U]):
    """A place for one actor: the handle, and the units sent to it in the order in which it executes them."""

    actor: Any
    ready_ref: Any
    ready: bool = False
    jobs: deque[_Job[U]] = field(default_factory=deque)
    head_since: float = 0.0
    pulse_ref: Any = None
    pulse_job: _Job[U] | None = None
    retiring: bool = False
    idle_since: float = 0.0


class Pool(Generic[U, R]):
    """Actors of one class, replaced when they die, each with at most two units in flight.

    Args:
        actor_class: class with ``ready() -> None`` (called first: load what is heavy; an exception here ends the run),
            ``work(unit, attempt) -> R`` (``attempt`` counts from 1), and, called from other threads, ``pulse()``
            (progress in the unit at hand) and ``prepare(unit)`` (of what comes after it).
        arguments: what the actor is built with; small, it travels.
        placement: how many actors, and what each of them occupies.
        max_attempts: a unit that loses its worker so often is given up; so is one whose exception is ``retryable``.
        unit_timeout_s: a unit that executes for longer has its worker killed.
        ready_timeout_s: so long may pass without a single ready actor.
        on_pulse: told about once a second the latest pulses of the executing units.
        on_loss: told why, whenever a worker is lost.
        workers: how many workers the cluster carries now, asked now and then: nodes may join.
        worn: whether the worker that gave this result is to be replaced.
        should_stop: once true, executing units are finished, nothing further is begun, and ``run`` ends.
    """

    def __init__(
        self,
        actor_class: type,
        arguments: tuple[Any, ...],
        placement: Placement,
        *,
        max_attempts: int = 2,
        unit_timeout_s: float = 3600.0,
        ready_timeout_s: float = 900.0,
        on_pulse: Callable[[list[Any]], None] | None = None,
        on_loss: Callable[[LossReason], None] = lambda reason: None,
        workers: Callable[[], int] | None = None,
        worn: Callable[[R], bool] = lambda result: False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._remote_class = ray.remote(
            num_cpus=placement.cpus,
            num_gpus=placement.gpus,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"pulse": 1, "prepare": 1},
            scheduling_strategy="SPREAD",
        )(actor_class)
        self._arguments = arguments
        self._placement = placement
        self._max_attempts = max_attempts
        self._unit_timeout_s = unit_timeout_s
        self._ready_timeout_s = ready_timeout_s
        self._on_pulse = on_pulse
        self._on_loss = on_loss
        self._workers = workers
        self._worn = worn
        self._should_stop = should_stop
        self._seats: list[_Seat[U]] = []
        self._waiting: deque[_Job[U]] = deque()
        self._failed_starts = 0
        self._unready_since = time.monotonic()
        self._wanted = placement.workers
        self._looked_around = time.monotonic()

    def run(self, units: Iterable[U | None]) -> Iterator[Outcome[U, R]]:
        """Do ``units`` and yield their outcomes as they come, in no particular order.

        Args:
            units: taken as workers have room; ``None`` where there is none now, but may be later.

        Raises:
            RTPruneError: no actor could be started, or all of them died before they were ready; what ``ready()``
                raised, if it is of this family.
        """
        source = iter(units)
        exhausted = False
        self._unready_since = time.monotonic()
        try:
            while True:
                stopping = self._should_stop()
                if stopping:
                    self._abandon_waiting()
                else:
                    exhausted = exhausted or self._take(source)
                    self._spawn()
                    self._dispatch()
                    self._dismiss_idle()
                if (exhausted or stopping) and not self._waiting and not any(seat.jobs for seat in self._seats):
                    return
                self._wait()
                yield from self._collect()
                yield from self._end_overdue()
                self._check_readiness()
                self._ask_pulses()
        finally:
            self.close()

    def close(self) -> None:
        """Kill every actor; units in flight are abandoned."""
        for seat in self._seats:
            ray.kill(seat.actor)
        self._seats.clear()
        self._waiting.clear()

    def _take(self, source: Iterator[U | None]) -> bool:
        """Take units that there is room for; whether there will be no more."""
        while len(self._waiting) < UNITS_IN_FLIGHT * self._wanted:
            try:
                unit = next(source)
            except StopIteration:
                return True
            if unit is None:
                return False
            self._waiting.append(_Job(unit))
        return False

    def _spawn(self) -> None:
        if self._workers is not None and time.monotonic() - self._looked_around > LOOK_AROUND_S:
            self._wanted, self._looked_around = max(1, self._workers()), time.monotonic()
        executing = sum(1 for seat in self._seats if seat.jobs)
        wanted = min(self._wanted, executing + len(self._waiting))
        while len(self._seats) < wanted:
            actor = self._remote_class.remote(*self._arguments)
            self._seats.append(_Seat(actor, actor.ready.remote()))

    def _dispatch(self) -> None:
        """Give every ready actor one unit, then a second one, but leave units for actors that have none yet.

        Nothing is sent behind a unit on its last attempt. An answer can be lost when the next unit kills the process
        at once, and then the one before seems guilty; it must not be given up for that.
        """
        for depth in range(UNITS_IN_FLIGHT):
            for seat in self._seats:
                without = sum(1 for other in self._seats if not other.jobs)
                if not seat.ready or seat.retiring or len(seat.jobs) != depth:
                    continue
                if depth > 0 and (len(self._waiting) <= without or self._is_last_attempt(seat.jobs[-1])):
                    continue
                if not self._waiting:
                    return
                job = self._waiting.popleft()
                job.ref = seat.actor.work.remote(job.unit, job.attempts + 1)
                seat.jobs.append(job)
                if depth == 0:
                    seat.head_since = time.monotonic()
                else:
                    seat.actor.prepare.options(concurrency_group="prepare").remote(job.unit)

    def _dismiss_idle(self) -> None:
        now = time.monotonic()
        for seat in list(self._seats):
            if seat.jobs or not seat.ready or self._waiting:
                seat.idle_since = now
            elif now - seat.idle_since > IDLE_S:
                ray.kill(seat.actor)
                self._seats.remove(seat)

    def _is_last_attempt(self, job: _Job[U]) -> bool:
        return job.attempts + 1 >= self._max_attempts

    def _wait(self) -> None:
        busy = [seat.jobs[0].ref for seat in self._seats if seat.jobs]
        refs = busy + [seat.ready_ref for seat in self._seats if not seat.ready]
        if refs:
            ray.wait(refs, num_returns=1, timeout=TICK_S, fetch_local=False)
        else:
            time.sleep(TICK_S)

    def _collect(self) -> Iterator[Outcome[U, R]]:
        for seat in list(self._seats):
            if not seat.ready and _is_done(seat.ready_ref):
                self._welcome(seat)
            while seat.jobs and _is_done(seat.jobs[0].ref):
                job = seat.jobs.popleft()
                seat.head_since = time.monotonic()
                job.attempts += 1
                try:
                    result = ray.get(job.ref)
                except RayTaskError as error:  # the unit's own fault: the process lives on
                    cause = error.cause if isinstance(error.cause, BaseException) else error
                    if getattr(cause, "retryable", False) and job.attempts < self._max_attempts:
                        self._waiting.append(job)
                    else:
                        yield Outcome(job.unit, job.attempts, reason="raised", error=cause)
                except RayError:  # the process, its node or the way to it was lost
                    yield from self._bury(seat, job, "worker-died")
                else:
                    seat.retiring = seat.retiring or self._worn(result)
                    yield Outcome(job.unit, job.attempts, result=result)
            if seat.retiring and not seat.jobs and seat in self._seats:
                ray.kill(seat.actor)
                self._seats.remove(seat)

    def _welcome(self, seat: _Seat[U]) -> None:
        try:
            ray.get(seat.ready_ref)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, BaseException) else error
            if isinstance(cause, RTPruneError):
                raise cause from None
            raise RTPruneError(
                f"a worker could not start: {type(cause).__name__}: {' '.join(str(cause).split())[-500:]}",
                "try fewer --workers; on other nodes make sure that this version of rtprune is installed there",
            ) from error
        except RayError as error:
            self._seats.remove(seat)
            self._on_loss("not-ready")
            self._failed_starts += 1
            if self._failed_starts >= STARTS_BEFORE_GIVING_UP:
                raise RTPruneError(
                    f"{self._failed_starts} workers in a row died before they were ready ({type(error).__name__})",
                    "most likely the memory is too small for the model; try fewer --workers",
                ) from error
        else:
            seat.ready = True
            self._failed_starts = 0

    def _bury(
        self, seat: _Seat[U], guilty: _Job[U], reason: Literal["worker-died", "timeout"]
    ) -> Iterator[Outcome[U, R]]:
        """Give up an actor: ``guilty`` (already charged) was executing, what waited behind it is not to blame."""
        ray.kill(seat.actor)
        self._seats.remove(seat)
        self._on_loss(reason)
        self._waiting.extendleft(reversed(seat.jobs))
        seat.jobs.clear()
        self._unready_since = time.monotonic()
        if guilty.attempts < self._max_attempts:
            self._waiting.append(guilty)
        else:
            yield Outcome(guilty.unit, guilty.attempts, reason=reason)

    def _end_overdue(self) -> Iterator[Outcome[U, R]]:
        for seat in list(self._seats):
            if seat.jobs and time.monotonic() - seat.head_since > self._unit_timeout_s:
                job = seat.jobs.popleft()
                job.attempts += 1
                yield from self._bury(seat, job, "timeout")

    def _check_readiness(self) -> None:
        if not self._seats or any(seat.ready for seat in self._seats):
            self._unready_since = time.monotonic()
        elif time.monotonic() - self._unready_since > self._ready_timeout_s:
            asked = self._placement.describe()
            raise RTPruneError(
                f"no worker was ready within {self._ready_timeout_s:.0f} s (each asks for {asked})",
                "look with `ray status` whether the cluster has that much free",
            )

    def _abandon_waiting(self) -> None:
        self._waiting.clear()
        for seat in list(self._seats):
            if not seat.jobs:
                ray.kill(seat.actor)
                self._seats.remove(seat)
            while len(seat.jobs) > 1:
                ray.cancel(seat.jobs.pop().ref)

    def _ask_pulses(self) -> None:
        if self._on_pulse is None:
            return
        for seat in self._seats:
            if seat.pulse_ref is not None and _is_done(seat.pulse_ref):
                with suppress(RayError):  # the actor's death is seen where its unit is collected
                    if seat.pulse_job is not None:
                        seat.pulse_job.pulse = ray.get(seat.pulse_ref)
                seat.pulse_ref = None
            if seat.pulse_ref is None and seat.jobs:
                seat.pulse_job = seat.jobs[0]
                seat.pulse_ref = seat.actor.pulse.options(concurrency_group="pulse").remote()
        heads = [seat.jobs[0] for seat in self._seats if seat.jobs]
        self._on_pulse([job.pulse for job in heads if job.pulse is not None])


def _is_done(ref: Any) -> bool:
    return bool(ray.wait([ref], timeout=0, fetch_local=False)[0])
