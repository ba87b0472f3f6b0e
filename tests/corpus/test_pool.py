"""What the pool promises of its processes, with actors that misbehave on command."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rtprune.corpus import pool as pool_module
from rtprune.corpus.pool import Finished, Lost, Pool, Pulsed, Raised
from rtprune.corpus.ray_cluster import Placement
from rtprune.errors import ModelError, RTPruneError

pytestmark = pytest.mark.usefixtures("local_ray")

TWO = Placement(2, 1.0)
ONE = Placement(1, 1.0)


class Toy:
    """Does what its task says; notes every execution as a file, so that a test sees what really ran."""

    def __init__(self, notes: str, start: str = "well") -> None:
        self.notes = Path(notes)
        self.start = start
        self.released = False

    def ready(self) -> None:
        if self.start == "model missing":
            raise ModelError("no such model", "try another")
        if self.start == "dies":
            os._exit(1)

    def pulse(self) -> str:
        return "alive"

    def release(self) -> None:
        self.released = True

    def work(self, task: str) -> str:
        (self.notes / f"{task}@{os.getpid()}").touch()
        name, _, deed = task.partition(":")
        if deed == "die":
            time.sleep(0.3)
            os._exit(1)
        if deed == "hang":
            time.sleep(600)
        if deed == "raise":
            raise ValueError(f"{name} is bad")
        if deed == "slow":
            time.sleep(2)
        while deed == "until released" and not self.released:
            time.sleep(0.05)
        return f"did {name}"


@dataclass
class Events:
    """All that a pool has said, and how many tasks its workers had at a time at most."""

    finished: dict[str, str] = field(default_factory=dict)
    raised: dict[str, tuple[str, bool]] = field(default_factory=dict)
    lost: list[tuple[list[str], str]] = field(default_factory=list)
    pulses: list[str] = field(default_factory=list)
    most: int = 0


def run(
    tmp_path: Path,
    tasks: Iterable[str],
    placement: Placement = TWO,
    *,
    alone: Callable[[str], bool] = lambda task: False,
    on_event: Callable[[Pool[str, str], object], None] = lambda pool, event: None,
    start: str = "well",
    **options: object,
) -> Events:
    """Give every task to a worker once, and hear what becomes of all of them."""
    pool: Pool[str, str] = Pool(Toy, (str(tmp_path), start), placement, **options)  # type: ignore[arg-type]
    waiting, events = deque(tasks), Events()
    total = len(waiting)
    deadline = time.monotonic() + 120
    try:
        while len(events.finished) + len(events.raised) + sum(len(lost) for lost, _ in events.lost) < total:
            assert time.monotonic() < deadline, f"still waiting, having heard {events}"
            pool.start(len(waiting))
            while waiting and (worker := pool.with_room(len(waiting))) is not None:
                if alone(waiting[0]) and worker.tasks:
                    break
                task = waiting.popleft()
                pool.send(worker, task, task, alone=alone(task))
                events.most = max(events.most, len(worker.tasks))
            for event in pool.events(0.2):
                match event:
                    case Finished(_, task, result):
                        events.finished[task] = result
                    case Raised(_, task, error, was_alone):
                        events.raised[task] = str(error), was_alone
                    case Lost(_, lost, reason):
                        events.lost.append((sorted(lost), reason))
                    case Pulsed(_, pulse):
                        events.pulses.append(pulse)
                on_event(pool, event)
            pool.ask_pulses()
    finally:
        pool.close()
    return events


def processes(tmp_path: Path) -> set[int]:
    return {int(path.name.rpartition("@")[2]) for path in tmp_path.glob("*@*")}


def has_ended(pid: int) -> bool:
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.1)
    return False


def test_every_task_is_heard_of_once_whatever_its_neighbours_do(tmp_path: Path) -> None:
    tasks = [f"g{number}" for number in range(12)]
    tasks[3:3] = ["a:die", "b:raise", "c:raise"]
    events = run(tmp_path, tasks)
    (lost,) = [lost for lost, reason in events.lost if reason == "worker-died"]
    assert "a:die" in lost
    assert len(lost) <= 2, "a worker has two tasks at a time"
    assert events.finished == {task: f"did {task}" for task in tasks if task[0] == "g" and task not in lost}
    assert {task: words for task, (words, _) in events.raised.items()} == {
        task: f"{task[0]} is bad" for task in ("b:raise", "c:raise") if task not in lost
    }


def test_a_death_names_all_that_the_worker_had(tmp_path: Path) -> None:
    events = run(tmp_path, ["a:die", "b:hang", "c:hang"], ONE, capacity=3)
    assert events.lost == [(["a:die", "b:hang", "c:hang"], "worker-died")]


def test_who_is_to_be_alone_is(tmp_path: Path) -> None:
    def alone(task: str) -> bool:
        return task.startswith("a")

    events = run(tmp_path, ["a1:die", "b", "a2:raise", "c"], ONE, alone=alone, capacity=4)
    assert events.lost == [(["a1:die"], "worker-died")]
    assert events.raised == {"a2:raise": ("a2 is bad", True)}
    assert set(events.finished) == {"b", "c"}


def test_a_worker_that_finishes_nothing_in_time_is_killed(tmp_path: Path) -> None:
    events = run(tmp_path, ["a:hang", "b"], ONE, task_timeout_s=1.5)
    assert events.finished == {"b": "did b"}
    assert events.lost == [(["a:hang"], "timeout")]
    assert all(map(has_ended, processes(tmp_path)))


def test_a_worker_has_no_more_tasks_than_its_capacity(tmp_path: Path) -> None:
    assert run(tmp_path, [f"u{number}" for number in range(12)], ONE, capacity=3).most == 3


def test_model_error_while_loading_ends_the_run_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        run(tmp_path, ["a", "b"], start="model missing")
    assert caught.value.hint == "try another"


def test_workers_that_die_while_loading_are_not_started_for_ever(tmp_path: Path) -> None:
    losses: list[str] = []
    with pytest.raises(RTPruneError, match="died before they were ready"):
        run(tmp_path, ["a"], ONE, start="dies", on_loss=losses.append)
    assert losses == ["not-ready"] * 3


def test_worker_that_can_never_be_placed_ends_the_wait_with_what_it_asked_for(tmp_path: Path) -> None:
    with pytest.raises(RTPruneError, match="1 CPU and 1 GPU"):
        run(tmp_path, ["a"], Placement(1, 1.0, 1.0), ready_timeout_s=1.5)


def test_workers_at_work_say_how_they_get_on(tmp_path: Path) -> None:
    assert "alive" in run(tmp_path, ["a:slow"], ONE).pulses


def test_released_workers_give_back_what_they_have_not_begun(tmp_path: Path) -> None:
    def release(pool: Pool[str, str], event: object) -> None:
        if isinstance(event, Pulsed):
            pool.release()

    assert set(run(tmp_path, ["a:until released", "b:until released"], ONE, on_event=release).finished) == {
        "a:until released",
        "b:until released",
    }


def test_a_retired_worker_ends_with_its_last_task_and_is_replaced(tmp_path: Path) -> None:
    def retire(pool: Pool[str, str], event: object) -> None:
        if isinstance(event, Finished) and event.task == "u0":
            pool.retire(event.worker)

    events = run(tmp_path, [f"u{number}" for number in range(6)], ONE, on_event=retire)
    assert len(events.finished) == 6
    assert len(processes(tmp_path)) == 2


def test_losses_are_told_with_their_reason(tmp_path: Path) -> None:
    losses: list[str] = []
    run(tmp_path, ["a:die", "b:hang", "c"], ONE, capacity=1, task_timeout_s=2, on_loss=losses.append)
    assert sorted(losses) == ["timeout", "worker-died"]


def test_workers_are_added_when_the_cluster_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "LOOK_AROUND_S", 0.5)
    run(tmp_path, [f"u{number}:slow" for number in range(4)], ONE, capacity=1, workers=lambda: 2)
    assert len(processes(tmp_path)) == 2


def test_an_idle_worker_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_S", 0.5)
    pool: Pool[str, str] = Pool(Toy, (str(tmp_path),), ONE)
    try:
        pool.start(1)
        while (worker := pool.with_room(1)) is None:
            pool.events(0.2)
        pool.send(worker, "a", "a")
        while not any(isinstance(event, Finished) for event in pool.events(0.2)):
            pass
        (pid,) = processes(tmp_path)
        deadline = time.monotonic() + 20
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline
            pool.events(0.2)
        assert pool.with_room(1) is None
    finally:
        pool.close()
