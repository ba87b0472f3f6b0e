"""What the pool promises about units, with actors that misbehave on command."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from rtprune.corpus import pool as pool_module
from rtprune.corpus.pool import Outcome, Pool
from rtprune.corpus.ray_cluster import Placement
from rtprune.errors import ModelError, RTPruneError, StoreError

pytestmark = pytest.mark.usefixtures("local_ray")

TWO = Placement(2, 1.0)
ONE = Placement(1, 1.0)


class Toy:
    """Does what its unit says; notes every execution as a file, so that a test sees what really ran."""

    def __init__(self, notes: str, start: str = "well") -> None:
        self.notes = Path(notes)
        self.start = start
        self.done = 0.0

    def ready(self) -> None:
        if self.start == "model missing":
            raise ModelError("no such model", "try another")
        if self.start == "dies":
            os._exit(1)

    def pulse(self) -> float:
        return self.done

    def prepare(self, unit: str) -> None:
        (self.notes / f"prepared {unit}").touch()

    def work(self, unit: str, attempt: int) -> str:
        (self.notes / f"{unit}@{attempt}-{os.getpid()}").touch()
        name, _, deed = unit.partition(":")
        if deed == "die" or (deed == "die once" and attempt == 1):
            time.sleep(0.3)  # so that the answer for the unit before is on its way
            os._exit(1)
        if deed == "die at once":
            os._exit(1)
        if deed == "hang" or (deed == "hang once" and attempt == 1):
            time.sleep(600)
        if deed == "raise":
            raise ValueError(f"{name} is bad")
        if deed == "store" or (deed == "store once" and attempt == 1):
            raise StoreError("the store is away")
        if deed == "slow":
            self.done = 0.5
            time.sleep(4)
        return f"did {name}"


def run(tmp_path: Path, units: Iterable[str], placement: Placement = TWO, **options: object) -> dict[str, Outcome]:
    start = str(options.pop("start", "well"))
    pool: Pool[str, str] = Pool(Toy, (str(tmp_path), start), placement, **options)  # type: ignore[arg-type]
    outcomes = list(pool.run(units))
    assert len({outcome.unit for outcome in outcomes}) == len(outcomes)
    return {outcome.unit: outcome for outcome in outcomes}


def executions(tmp_path: Path, unit: str) -> int:
    return len(list(tmp_path.glob(f"{unit}@*")))


def test_every_unit_comes_back_once_whatever_its_neighbours_do(tmp_path: Path) -> None:
    bad = ["a:die", "b:die once", "c:hang once", "d:raise", "e:store once", "f:store"]
    good = [f"g{number}" for number in range(20)]
    units = [unit for pair in zip(good, bad, strict=False) for unit in pair] + good[len(bad) :]
    outcomes = run(tmp_path, units, unit_timeout_s=3)

    assert set(outcomes) == set(units)
    assert all(outcomes[unit].result == f"did {unit}" and outcomes[unit].attempts == 1 for unit in good)
    assert all(executions(tmp_path, unit) <= 2 for unit in good)
    assert (outcomes["a:die"].reason, outcomes["a:die"].attempts) == ("worker-died", 2)
    assert (outcomes["b:die once"].result, outcomes["b:die once"].attempts) == ("did b", 2)
    assert (outcomes["c:hang once"].result, outcomes["c:hang once"].attempts) == ("did c", 2)
    assert (outcomes["d:raise"].reason, outcomes["d:raise"].attempts) == ("raised", 1)
    assert str(outcomes["d:raise"].error) == "d is bad"
    assert outcomes["e:store once"].result == "did e"
    assert isinstance(outcomes["f:store"].error, StoreError)
    assert executions(tmp_path, "a:die") == 2


def test_unit_that_always_hangs_is_given_up_and_its_worker_killed(tmp_path: Path) -> None:
    outcomes = run(tmp_path, ["a:hang", "b"], ONE, unit_timeout_s=1.0)
    assert (outcomes["a:hang"].reason, outcomes["a:hang"].attempts) == ("timeout", 2)
    assert outcomes["b"].result == "did b"
    assert executions(tmp_path, "b") == 1
    for note in tmp_path.glob("a:hang@*"):
        pid = int(note.name.rpartition("-")[2])
        for _ in range(100):
            if not Path(f"/proc/{pid}").exists():
                break
            time.sleep(0.1)
        assert not Path(f"/proc/{pid}").exists(), "the hanging process lives on"


def test_unit_waiting_behind_a_poison_unit_is_not_blamed(tmp_path: Path) -> None:
    outcomes = run(tmp_path, ["a:die", "b", "c:die", "d"], ONE)
    assert (outcomes["b"].result, outcomes["b"].attempts) == ("did b", 1)
    assert (outcomes["d"].result, outcomes["d"].attempts) == ("did d", 1)
    assert outcomes["a:die"].reason == outcomes["c:die"].reason == "worker-died"
    assert executions(tmp_path, "a:die") == executions(tmp_path, "c:die") == 2


@pytest.mark.parametrize("max_attempts", [1, 2])
def test_unit_whose_answer_is_lost_with_the_worker_is_not_given_up(max_attempts: int, tmp_path: Path) -> None:
    units = [unit for number in range(4) for unit in (f"g{number}", f"x{number}:die at once")]
    outcomes = run(tmp_path, units, ONE, max_attempts=max_attempts)
    assert [outcomes[unit].result for unit in units[::2]] == ["did g0", "did g1", "did g2", "did g3"]
    assert [outcomes[unit].reason for unit in units[1::2]] == ["worker-died"] * 4


def test_model_error_while_loading_ends_the_run_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        run(tmp_path, ["a", "b"], start="model missing")
    assert caught.value.hint == "try another"


def test_workers_that_die_while_loading_are_not_started_for_ever(tmp_path: Path) -> None:
    with pytest.raises(RTPruneError, match="died before they were ready"):
        run(tmp_path, ["a"], ONE, start="dies")


def test_worker_that_can_never_be_placed_ends_the_wait_with_what_it_asked_for(tmp_path: Path) -> None:
    with pytest.raises(RTPruneError, match="1 CPU and 1 GPU"):
        run(tmp_path, ["a"], Placement(1, 1.0, 1.0), ready_timeout_s=1.5)


def test_units_are_taken_from_the_source_as_workers_have_room(tmp_path: Path) -> None:
    taken: list[str] = []

    def source() -> Iterable[str]:
        for number in range(40):
            taken.append(f"u{number}")
            yield taken[-1]

    pool: Pool[str, str] = Pool(Toy, (str(tmp_path),), ONE)
    for finished, _ in enumerate(pool.run(source())):
        assert len(taken) - finished <= 6
    assert len(taken) == 40


def test_stopping_finishes_what_executes_and_begins_nothing_more(tmp_path: Path) -> None:
    units = ["a:slow", *(f"b{number}:slow" for number in range(8))]
    outcomes = run(tmp_path, units, ONE, should_stop=lambda: any(tmp_path.iterdir()))
    assert set(outcomes) == {"a:slow"}
    assert outcomes["a:slow"].result == "did a"
    assert sum(executions(tmp_path, unit) for unit in units[1:]) <= 1


def test_pulse_tells_progress_within_a_unit(tmp_path: Path) -> None:
    heard: list[float] = []
    run(tmp_path, ["a:slow"], ONE, on_pulse=heard.extend)
    assert 0.5 in heard


def test_a_source_may_have_nothing_now_and_something_later(tmp_path: Path) -> None:
    def source() -> Iterator[str | None]:
        yield "a"
        for _ in range(3):
            yield None
        yield "b"

    pool: Pool[str, str] = Pool(Toy, (str(tmp_path),), ONE)
    assert {outcome.unit for outcome in pool.run(source())} == {"a", "b"}


def test_what_waits_at_a_worker_is_prepared_there(tmp_path: Path) -> None:
    run(tmp_path, ["a:slow", "b", "c"], ONE)
    assert (tmp_path / "prepared b").exists()
    assert not (tmp_path / "prepared a:slow").exists()


def test_a_worker_that_is_worn_is_replaced_when_its_units_are_done(tmp_path: Path) -> None:
    outcomes = run(tmp_path, [f"u{number}" for number in range(6)], ONE, worn=lambda result: result == "did u0")
    assert all(outcome.attempts == 1 for outcome in outcomes.values())
    processes = {path.name.rpartition("-")[2] for path in tmp_path.glob("u*")}
    assert len(processes) == 2


def test_losses_are_told_with_their_reason(tmp_path: Path) -> None:
    lost: list[str] = []
    run(tmp_path, ["a:die once", "b:hang once", "c"], ONE, unit_timeout_s=2, on_loss=lost.append)
    assert sorted(lost) == ["timeout", "worker-died"]
    with pytest.raises(RTPruneError):
        run(tmp_path, ["d"], ONE, start="dies", on_loss=lost.append)
    assert lost[2:] == ["not-ready"] * 3


def test_workers_are_added_when_the_cluster_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "LOOK_AROUND_S", 0.5)
    units = [f"u{number}:slow" for number in range(4)]
    run(tmp_path, units, ONE, workers=lambda: 2)
    processes = {path.name.rpartition("-")[2] for path in tmp_path.glob("u*")}
    assert len(processes) == 2


def test_an_idle_worker_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_S", 0.5)

    def runs(unit: str) -> bool:
        return any(Path(f"/proc/{path.name.rpartition('-')[2]}").exists() for path in tmp_path.glob(f"{unit}@*"))

    def source() -> Iterator[str | None]:
        yield "a"
        while not executions(tmp_path, "a") or runs("a"):
            yield None
        yield "b"

    pool: Pool[str, str] = Pool(Toy, (str(tmp_path),), ONE)
    assert [outcome.unit for outcome in pool.run(source())] == ["a", "b"]
