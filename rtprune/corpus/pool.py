"""Processes that work: Ray actors started, fed, killed and replaced. What their tasks mean is others' business.

Ray's own restarts and retries stay off: they repeat for ever what kills its process, or lose it. Answers come by
callbacks, so that no step here takes longer when there are more workers.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import Any, Generic, Literal, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from rtprune.corpus.ray_cluster import Placement
from rtprune.corpus.values import LossReason
from rtprune.errors import RTPruneError

T = TypeVar("T")
R = TypeVar("R")

STARTS_BEFORE_GIVING_UP = 3
IDLE_S = 20.0  # a worker with nothing to do makes room for others, such as those of another run
LOOK_AROUND_S = 15.0  # how often the cluster is asked how many workers it carries
PULSES_AT_ONCE = 16  # workers asked how they get on at a time
PULSES_EVERY_S = 1.0


@dataclass(eq=False)
class Worker(Generic[T]):
    """One actor, and the tasks that it has."""

    number: int
    actor: Any
    tasks: list[T] = field(default_factory=list)
    ready: bool = False
    alone: bool = False  # gets nothing more until its task has ended
    retiring: bool = False
    lost: bool = False
    since: float = 0.0  # when it last had nothing, or finished something
    pulse_asked: bool = False

    @property
    def name(self) -> str:
        """For messages."""
        return f"worker {self.number}"


@dataclass(frozen=True, slots=True)
class Finished(Generic[T, R]):
    """A task has given its result."""

    worker: Worker[T]
    task: T
    result: R


@dataclass(frozen=True, slots=True)
class Raised(Generic[T]):
    """A task has raised ``error``; ``alone`` is true where its worker had no other."""

    worker: Worker[T]
    task: T
    error: BaseException
    alone: bool


@dataclass(frozen=True, slots=True)
class Lost(Generic[T]):
    """A worker is gone, with all ``tasks`` that it had."""

    worker: Worker[T]
    tasks: Sequence[T]
    reason: Literal["worker-died", "timeout"]


@dataclass(frozen=True, slots=True)
class Pulsed(Generic[T]):
    """What a worker says of itself."""

    worker: Worker[T]
    pulse: Any


Event = Finished[T, R] | Raised[T] | Lost[T] | Pulsed[T]


class Pool(Generic[T, R]):
    """Workers of one class, replaced when they die. To be closed.

    Args:
        actor_class: class with ``ready() -> None`` (called first: load what is heavy; an exception there ends the
            run), ``work(...) -> R``, called from as many threads as it has tasks, and ``pulse()``.
        arguments: what the actor is built with; small, it travels.
        placement: how many actors, and what each of them occupies.
        capacity: tasks that a worker has at a time, at most.
        task_timeout_s: a worker that finishes nothing for so long is killed.
        ready_timeout_s: so long may pass without a single ready worker.
        on_loss: called with the reason whenever a worker is lost.
        workers: how many workers the cluster carries now, asked now and then: nodes may join.
    """

    def __init__(
        self,
        actor_class: type,
        arguments: tuple[Any, ...],
        placement: Placement,
        *,
        capacity: int = 2,
        task_timeout_s: float = 3600.0,
        ready_timeout_s: float = 900.0,
        on_loss: Callable[[LossReason], None] = lambda reason: None,
        workers: Callable[[], int] | None = None,
    ) -> None:
        self._actor_class = actor_class
        self._arguments = arguments
        self._placement = placement
        self._capacity = capacity
        self._task_timeout_s = task_timeout_s
        self._ready_timeout_s = ready_timeout_s
        self._on_loss = on_loss
        self._count_workers = workers
        self._answers: SimpleQueue[tuple[Worker[T], T | str, Any, BaseException | None]] = SimpleQueue()
        self._wanted = placement.workers
        self._looked_around = self.now()
        self._asked = self.now()
        self._started = 0
        self._failed_starts = 0
        self._unready_since = self.now()
        # every live worker is in exactly one of these, the one that waits longest first
        self._starting: OrderedDict[Worker[T], None] = OrderedDict()
        self._idle: OrderedDict[Worker[T], None] = OrderedDict()
        self._busy: OrderedDict[Worker[T], None] = OrderedDict()  # by ``since``
        self._roomy: OrderedDict[Worker[T], None] = OrderedDict()  # the busy ones that can take more
        self._to_ask: OrderedDict[Worker[T], None] = OrderedDict()  # the busy ones, by when they were last asked

    def now(self) -> float:
        """Seconds on a clock that nobody sets."""
        return time.monotonic()

    def start(self, waiting: int) -> None:
        """Start workers, as many as there are tasks ``waiting`` for one that has none, and as the cluster carries."""
        if self._count_workers is not None and self.now() - self._looked_around > LOOK_AROUND_S:
            self._wanted, self._looked_around = max(1, self._count_workers()), self.now()
        for _ in range(min(self._wanted - self._size, waiting - len(self._starting) - len(self._idle))):
            self._started += 1
            worker: Worker[T] = Worker(self._started, self._launch())
            self._starting[worker] = None
            self._watch(worker, "ready", worker.actor.ready.remote())

    def with_room(self, waiting: int) -> Worker[T] | None:
        """A worker that can take a task now: one that has none, where there is one.

        Args:
            waiting: tasks that wait; where they are few they are left to workers that start.
        """
        if self._idle:
            return next(iter(self._idle))
        return next(iter(self._roomy)) if self._roomy and waiting > len(self._starting) else None

    def send(self, worker: Worker[T], task: T, *arguments: Any, alone: bool = False) -> None:
        """Have ``worker`` do a task by ``work(*arguments)``; it gets no other meanwhile if ``alone``."""
        if not worker.tasks:
            self._restart_clock(worker)
        worker.tasks.append(task)
        worker.alone = alone
        self._roomy.pop(worker, None)  # the others come first next time
        self._settle(worker)
        self._watch(worker, task, worker.actor.work.options(concurrency_group="work").remote(*arguments))

    def events(self, seconds: float) -> list[Event[T, R]]:
        """What has happened, waiting for something up to ``seconds``.

        Raises:
            RTPruneError: no worker could be started, or all of them died before they were ready; what ``ready()``
                raised, if it is of this family.
        """
        events: list[Event[T, R]] = []
        wait = True
        while True:
            try:
                answer = self._answers.get(timeout=seconds) if wait else self._answers.get_nowait()
            except Empty:
                break
            wait = False
            events.extend(self._take(*answer))
        events.extend(self._end_overdue())
        self._dismiss_idle()
        self._check_readiness()
        return events

    def ask_pulses(self) -> None:
        """Ask some of the workers at work how they get on, once a second; their answers are events."""
        if self.now() - self._asked < PULSES_EVERY_S:
            return
        self._asked = self.now()
        for worker in list(self._to_ask)[:PULSES_AT_ONCE]:
            self._to_ask.move_to_end(worker)
            if not worker.pulse_asked:
                worker.pulse_asked = True
                self._watch(worker, "pulse", worker.actor.pulse.options(concurrency_group="pulse").remote())

    def retire(self, worker: Worker[T]) -> None:
        """Give ``worker`` no more tasks, and end it with its last one."""
        worker.retiring = True
        self._settle(worker)

    def release(self) -> None:
        """Have every worker give back the tasks that it has not begun."""
        for worker in self._busy:
            with suppress(RayError):
                worker.actor.release.options(concurrency_group="pulse").remote()

    def close(self) -> None:
        """Kill every worker; tasks in flight are abandoned."""
        for worker in [*self._starting, *self._idle, *self._busy]:
            self._discard(worker)

    @cached_property
    def _remote_class(self) -> Any:
        return ray.remote(
            num_cpus=self._placement.cpus,
            num_gpus=self._placement.gpus,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"work": self._capacity, "pulse": 1},
            scheduling_strategy="SPREAD",
        )(self._actor_class)

    def _launch(self) -> Any:
        """A new actor."""
        return self._remote_class.remote(*self._arguments)

    def _kill(self, actor: Any) -> None:
        ray.kill(actor)

    @property
    def _size(self) -> int:
        return len(self._starting) + len(self._idle) + len(self._busy)

    def _watch(self, worker: Worker[T], what: T | str, ref: Any) -> None:
        def answered(future: Any) -> None:
            error = future.exception()
            self._answers.put((worker, what, None if error else future.result(), error))

        ref.future().add_done_callback(answered)

    def _take(
        self, worker: Worker[T], what: T | str, result: Any, error: BaseException | None
    ) -> Iterator[Event[T, R]]:
        if worker.lost:
            return
        if what == "ready":
            self._welcome(worker, error)
        elif what == "pulse":
            worker.pulse_asked = False
            if error is None:  # a death is seen where its task is collected
                yield Pulsed(worker, result)
        elif isinstance(error, RayError) and not isinstance(error, RayTaskError):
            yield self._lose(worker, "worker-died")  # the process, its node or the way to it
        else:
            task: Any = what
            alone = len(worker.tasks) == 1
            worker.tasks.remove(task)
            worker.alone = False
            self._restart_clock(worker)
            self._settle(worker)
            if error is None:
                yield Finished(worker, task, result)
            else:
                yield Raised(worker, task, _cause(error), alone)

    def _settle(self, worker: Worker[T]) -> None:
        """Put ``worker`` where it belongs by what it has."""
        if worker.lost:
            return
        if worker.retiring and not worker.tasks:
            self._discard(worker)
            return
        for rooms, belongs in (
            (self._idle, not worker.tasks),
            (self._busy, bool(worker.tasks)),
            (self._to_ask, bool(worker.tasks)),
            (self._roomy, 0 < len(worker.tasks) < self._capacity and not worker.alone and not worker.retiring),
        ):
            if not belongs:
                rooms.pop(worker, None)
            elif worker not in rooms:
                rooms[worker] = None

    def _restart_clock(self, worker: Worker[T]) -> None:
        worker.since = self.now()
        if worker in self._busy:
            self._busy.move_to_end(worker)

    def _welcome(self, worker: Worker[T], error: BaseException | None) -> None:
        self._starting.pop(worker, None)
        if error is None:
            worker.ready, self._failed_starts = True, 0
            worker.since = self.now()
            self._settle(worker)
            return
        self._discard(worker)
        if isinstance(error, RayTaskError) or not isinstance(error, RayError):
            cause = _cause(error)
            if isinstance(cause, RTPruneError):
                raise cause from None
            raise RTPruneError(
                f"a worker could not start: {type(cause).__name__}: {' '.join(str(cause).split())[-500:]}",
                "try fewer --workers; on other nodes make sure that this version of rtprune is installed there",
            ) from error
        self._on_loss("not-ready")
        self._failed_starts += 1
        if self._failed_starts >= STARTS_BEFORE_GIVING_UP:
            raise RTPruneError(
                f"{self._failed_starts} workers in a row died before they were ready ({type(error).__name__})",
                "most likely the memory is too small for the model; try fewer --workers",
            ) from error

    def _lose(self, worker: Worker[T], reason: Literal["worker-died", "timeout"]) -> Lost[T]:
        self._discard(worker)
        self._on_loss(reason)
        return Lost(worker, list(worker.tasks), reason)

    def _discard(self, worker: Worker[T]) -> None:
        worker.lost = True
        for rooms in (self._starting, self._idle, self._busy, self._roomy, self._to_ask):
            rooms.pop(worker, None)
        self._kill(worker.actor)
        self._unready_since = self.now()

    def _end_overdue(self) -> Iterator[Lost[T]]:
        while self._busy:
            worker = next(iter(self._busy))
            if self.now() - worker.since <= self._task_timeout_s:
                return
            yield self._lose(worker, "timeout")

    def _dismiss_idle(self) -> None:
        while self._idle:
            worker = next(iter(self._idle))
            if self.now() - worker.since <= IDLE_S:
                return
            self._discard(worker)

    def _check_readiness(self) -> None:
        if not self._starting or self._idle or self._busy:
            self._unready_since = self.now()
        elif self.now() - self._unready_since > self._ready_timeout_s:
            raise RTPruneError(
                f"no worker was ready within {self._ready_timeout_s:.0f} s, each asks for {self._placement.describe()}",
                "look with `ray status` whether the cluster has that much free",
            )


def _cause(error: BaseException) -> BaseException:
    """What a task raised, without what Ray wraps around it."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(error, RayTaskError) and isinstance(cause, BaseException) else error
