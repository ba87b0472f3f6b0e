"""What becomes of every unit, transition by transition, and what holds whatever happens."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from rtprune.corpus.unit_queue import Ended, Failure, Task, UnitQueue
from rtprune.errors import Reason, RTPruneError, StoreError, UsageError

Queue = UnitQueue[str, str]
AWAY = StoreError("the store is away")
BUG = RuntimeError("a bug")


def queue_of(*units: str, parts: int = 3, **options: int | None) -> Queue:
    return UnitQueue(iter(units), lambda unit: parts, **options)  # type: ignore[arg-type]


def take(queue: Queue, *, idle: bool = True) -> Task[str]:
    task = queue.take(idle=idle)
    assert task is not None
    return task


def state(queue: Queue, unit: str) -> str:
    """Where a unit is now, in the words of the module's table."""
    for ended in queue.ended:
        if ended.unit == unit:
            return "postponed" if ended.postponed else "done"
    for task in queue._suspects:
        if task.unit == unit and task.whole is None:
            return "suspect"
    if any(task.unit == unit for task in queue._again):
        return "waiting"
    if any(task.unit == unit for task, _ in queue._failed):
        return "failed"
    if any(task.unit == unit for task in queue._divided):
        return "divided"
    return "in flight"


@dataclass
class Scene:
    """A unit "a" in flight, and "b" beside it or elsewhere."""

    queue: Queue = field(default_factory=lambda: queue_of("a", "b", "c", "d"))

    def __post_init__(self) -> None:
        self.a = take(self.queue)

    def beside(self) -> Task[str]:
        """The worker of "a" has "b" as well."""
        return take(self.queue, idle=False)


def lost_beside(scene: Scene) -> None:
    scene.queue.lost([scene.a, scene.beside()], "worker-died")


def lost_alone(scene: Scene) -> None:
    scene.queue.lost([scene.a], "worker-died")


def lost_twice_alone(scene: Scene) -> None:
    lost_alone(scene)
    scene.queue.lost([take(scene.queue)], "timeout")


def raised_beside(scene: Scene) -> None:
    scene.queue.raised(scene.a, BUG, alone=False)


def raised_alone(scene: Scene) -> None:
    scene.queue.raised(scene.a, BUG, alone=True)


def store_away(scene: Scene) -> None:
    scene.queue.raised(scene.a, AWAY, alone=False)


def store_away_twice(scene: Scene) -> None:
    store_away(scene)
    scene.queue.raised(take(scene.queue, idle=False), AWAY, alone=False)


def given_back(scene: Scene) -> None:
    scene.queue.returned(scene.a)


def then_another_is_done(before: Callable[[Scene], None]) -> Callable[[Scene], None]:
    def happen(scene: Scene) -> None:
        before(scene)
        scene.queue.done(take(scene.queue), "done")

    return happen


@pytest.mark.parametrize(
    ("happens", "then"),
    [
        (lambda scene: scene.queue.done(scene.a, "done"), "done"),
        (lost_beside, "suspect"),
        (raised_beside, "suspect"),
        (lost_alone, "suspect"),
        (lost_twice_alone, "failed"),
        (store_away, "waiting"),
        (store_away_twice, "failed"),
        (raised_alone, "failed"),
        (given_back, "waiting"),
        (then_another_is_done(raised_alone), "divided"),
        (then_another_is_done(lost_twice_alone), "divided"),
        (then_another_is_done(store_away_twice), "postponed"),
    ],
)
def test_transitions(happens: Callable[[Scene], None], then: str) -> None:
    scene = Scene()
    happens(scene)
    assert state(scene.queue, "a") == then


def test_only_what_was_alone_is_charged() -> None:
    queue = queue_of("a", "b")
    a, b = take(queue), take(queue, idle=False)
    queue.lost([a, b], "worker-died")
    assert (a.charged, b.charged) == (0, 0)
    queue.lost([take(queue)], "worker-died")
    assert (a.charged, b.charged) == (1, 0)


def test_suspects_get_a_worker_to_themselves_and_nobody_else_is_fed_until_they_have() -> None:
    queue = queue_of("a", "b", "c")
    queue.lost([take(queue), take(queue, idle=False)], "timeout")
    assert queue.take(idle=False) is None
    assert [take(queue).unit, take(queue).unit] == ["a", "b"]
    assert take(queue, idle=False).unit == "c"


@pytest.mark.parametrize("error", [UsageError("no password"), RTPruneError("the GPU is too small")])
def test_an_error_of_ours_ends_the_run(error: RTPruneError) -> None:
    queue = queue_of("a")
    with pytest.raises(type(error)) as caught:
        queue.raised(take(queue), error, alone=True)
    assert caught.value is error


@pytest.mark.parametrize(("error", "raised"), [(BUG, "3 units in a row.*RuntimeError: a bug"), (AWAY, "away")])
def test_three_failures_in_a_row_end_the_run(error: Exception, raised: str) -> None:
    queue = queue_of("a", "b", "c", max_attempts=1)
    for _ in range(2):
        queue.raised(take(queue), error, alone=True)
    with pytest.raises(RTPruneError, match=raised):
        queue.raised(take(queue), error, alone=True)


def test_a_success_between_failures_starts_the_count_again() -> None:
    queue = queue_of("a", "b", "c", "d", "e", max_attempts=1)
    for fate in "xx-xx":
        task = queue.take(idle=False) or take(queue)
        if fate == "x":
            queue.raised(task, AWAY, alone=True)
        else:
            queue.done(task, "done")
    assert [ended.unit for ended in queue.ended] == ["a", "b", "c"]


def test_what_another_run_has_done_proves_nothing() -> None:
    queue = queue_of("a", "b", max_attempts=1)
    queue.raised(take(queue), BUG, alone=True)
    queue.done(take(queue), "elsewhere", proves=False)
    assert state(queue, "a") == "failed"


def test_a_divided_unit_ends_with_what_each_of_its_parts_gave() -> None:
    queue = queue_of("a", "b", max_attempts=1)
    queue.raised(take(queue), BUG, alone=True)
    queue.done(take(queue), "b is done")
    parts = [take(queue) for _ in range(3)]
    assert [(task.unit, task.part, task.alone) for task in parts] == [("a", part, True) for part in range(3)]
    queue.done(parts[2], "page 3")
    queue.lost([parts[1]], "timeout")
    queue.done(parts[0], "page 1")
    ended = queue.ended.pop()
    assert (ended.unit, ended.parts[0], ended.parts[2]) == ("a", "page 1", "page 3")
    failure = ended.parts[1]
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.attempts) == (Reason.TIMEOUT, 1)
    assert queue.finished


def test_a_unit_of_one_part_is_not_tried_once_more_as_a_part() -> None:
    queue = queue_of("a", parts=1, max_attempts=2)
    for _ in range(2):
        queue.lost([take(queue)], "worker-died")
    assert queue.finished
    (failure,) = queue.ended.pop().parts
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.attempts) == (Reason.WORKER_DIED, 2)
    assert "2 times" in failure.message


def test_where_nothing_was_ever_read_three_parts_speak_for_all() -> None:
    queue = queue_of("a", parts=50, max_attempts=1)
    queue.lost([take(queue)], "worker-died")
    assert not queue.finished
    for _ in range(3):
        queue.lost([take(queue)], "worker-died")
    assert queue.finished
    assert len(queue.ended.pop().parts) == 50


def test_parts_that_fail_make_way_for_a_unit_that_shows_whether_any_can_be_read() -> None:
    queue = queue_of("a", "b", "c", parts=9, max_attempts=1)
    queue.raised(take(queue), BUG, alone=True)
    queue.done(take(queue), "b")
    for _ in range(3):
        queue.lost([take(queue)], "worker-died")
    assert take(queue).unit == "c"


def test_the_parts_of_a_unit_that_the_store_does_not_give_are_dropped() -> None:
    queue = queue_of("a", "b", parts=5, max_attempts=1)
    queue.raised(take(queue), BUG, alone=True)
    queue.done(take(queue), "b")
    first, second = take(queue), take(queue)
    queue.raised(first, AWAY, alone=True)
    queue.done(second, "too late")
    assert queue.finished
    assert [(ended.unit, ended.postponed) for ended in queue.ended] == [("b", None), ("a", AWAY)]


def test_what_comes_back_or_fails_after_a_stop_is_left_for_the_next_run() -> None:
    queue = queue_of("a", "b", "c", max_attempts=1)
    a, b = take(queue), take(queue, idle=False)
    queue.stop()
    queue.returned(a)
    queue.lost([b], "worker-died")
    assert queue.take(idle=True) is None
    assert queue.finished
    assert not queue.ended


def test_once_stopped_nothing_more_begins() -> None:
    queue = queue_of("a", "b", "c")
    a = take(queue)
    queue.stop()
    assert queue.take(idle=True) is None
    assert not queue.finished
    queue.done(a, "done")
    assert queue.finished


def test_what_fails_or_is_given_back_after_a_stop_is_left_for_the_next_run() -> None:
    queue = queue_of("a", "b", "c", "d")
    a, b, c = take(queue), take(queue, idle=False), take(queue, idle=False)
    queue.stop()
    queue.returned(a)
    queue.lost([b, c], "worker-died")
    assert queue.finished
    assert not queue.ended
    assert queue.take(idle=True) is None


def chaos(queue: Queue, dice: random.Random, workers: int) -> Iterator[Ended[str, str]]:
    """Do all units with workers to which anything happens; poisoned parts kill, and whole units that hold one."""
    busy: list[list[Task[str]]] = [[] for _ in range(workers)]
    while not queue.finished:
        for tasks in busy:
            if len(tasks) < 3 and not any(task.alone for task in tasks):
                task = queue.take(idle=not tasks)
                if task is not None:
                    tasks.append(task)
        tasks = dice.choice([tasks for tasks in busy if tasks])
        task = dice.choice(tasks)
        poisoned = task.unit.startswith("bad") and task.part in (None, 1)
        if poisoned or dice.random() < 0.05:
            lost, tasks[:] = tasks[:], []
            queue.lost(lost, "worker-died")
        else:
            alone = len(tasks) == 1
            tasks.remove(task)
            if dice.random() < 0.05:
                queue.raised(task, BUG, alone=alone) if not alone else queue.returned(task)
            else:
                queue.done(task, f"{task.unit}/{task.part}")
        while queue.ended:
            yield queue.ended.popleft()


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_every_unit_ends_once_and_only_culprits_are_lost(seed: int) -> None:
    dice = random.Random(seed)
    units = [f"{'bad' if dice.random() < 0.1 else 'good'}-{number}" for number in range(60)]
    queue: Queue = UnitQueue(iter(units), lambda unit: 3, max_attempts=4, failures_in_a_row=None)
    ended = list(chaos(queue, dice, workers=3))
    assert sorted(each.unit for each in ended) == sorted(units)
    for each in ended:
        if each.unit.startswith("bad"):
            assert [isinstance(part, Failure) for part in each.parts] == [False, True, False]
        else:
            assert not any(isinstance(part, Failure) for part in each.parts)
