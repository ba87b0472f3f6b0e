"""Runs share work by claims: one owner each, taken over from the dead and from nobody else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rtprune.dataset import Output
from rtprune.dataset.claims import Claims, heartbeat
from rtprune.store import find, get, put


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["folder", "bucket"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Output:
    uri = str(tmp_path / "out") if request.param == "folder" else f"{request.getfixturevalue('bucket')}/out"
    return Output.open(uri, {"mode": "tiny"})


def beat_from_afar(output: Output, run_id: str, number: int) -> None:
    """A heartbeat of a process on another machine."""
    content = {"beat": number, "process": ["another boot", "pid:[1]", "7", "7"]}
    put(f"{output.uri}/_rtprune/alive/{run_id}.json", json.dumps(content).encode())


def test_one_of_many_gets_a_claim_and_keeps_it(output: Output) -> None:
    def take(number: int) -> bool:
        with heartbeat(output, f"r{number}"):
            got = Claims(output, f"r{number}").take("unit")
            time.sleep(2)
            return got

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(take, range(8))) == [False] * 7 + [True]


def test_a_claim_is_its_owners_however_often_it_asks(output: Output) -> None:
    with heartbeat(output, "r1"), heartbeat(output, "r2"):
        assert Claims(output, "r1").take("unit")
        assert Claims(output, "r1").take("unit")
        assert not Claims(output, "r2").take("unit")
        assert Claims(output, "r2").take("another")


def test_what_a_run_that_ended_left_is_free_at_once(output: Output) -> None:
    with heartbeat(output, "r1"):
        assert Claims(output, "r1").take("unit")
    assert Claims(output, "r2").take("unit")


def test_a_run_on_another_machine_is_dead_when_its_heart_stands_still(output: Output) -> None:
    clock = Clock()
    ours = Claims(output, "r2", lease_s=60, clock=clock)
    beat_from_afar(output, "r1", 0)
    assert Claims(output, "r1").take("unit")
    for number in range(1, 5):
        assert not ours.take("unit"), "it beats"
        clock.now += 50
        beat_from_afar(output, "r1", number)
    assert not ours.take("unit")
    clock.now += 59
    assert not ours.take("unit"), "it may be late"
    clock.now += 2
    assert ours.take("unit")


def test_a_clock_that_jumps_kills_nobody(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    beat_from_afar(output, "r1", 0)
    assert Claims(output, "r1").take("unit")
    ours = Claims(output, "r2")
    assert not ours.take("unit")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert not ours.take("unit")


def test_a_killed_process_of_this_machine_is_dead_at_once(output: Output) -> None:
    code = (
        "import sys, time\n"
        "from rtprune.dataset import Output\n"
        "from rtprune.dataset.claims import Claims, heartbeat\n"
        "output = Output.existing(sys.argv[1])\n"
        "with heartbeat(output, 'r1'):\n"
        "    print(Claims(output, 'r1').take('unit'), flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, output.uri], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        ours = Claims(output, "r2")
        assert not ours.take("unit")
        process.kill()
        process.wait()
        assert ours.take("unit")
    assert ours.dead_runs() == ["r1"]
    ours.forget("r1")
    assert not find(f"{output.uri}/_rtprune/alive")


def test_a_run_on_another_machine_is_dead_once_its_heartbeat_stood_still_for_a_lease(output: Output) -> None:
    beat_from_afar(output, "r1", 1)
    clock = Clock()
    claims = Claims(output, "r2", lease_s=60, clock=clock)
    beat_from_afar(output, "r3", 1)
    assert claims.dead_runs() == []
    clock.now += 59
    beat_from_afar(output, "r3", 2)
    assert claims.dead_runs() == []
    clock.now += 2
    assert claims.dead_runs() == ["r1"]


def test_a_heart_beats(output: Output) -> None:
    uri = f"{output.uri}/_rtprune/alive/r1.json"
    with heartbeat(output, "r1", every_s=0.05):
        first = get(uri)
        time.sleep(1)
        assert get(uri) != first
    assert not find(f"{output.uri}/_rtprune/alive")


def test_claims_on_what_is_done_are_swept_away(output: Output) -> None:
    with heartbeat(output, "r1"), heartbeat(output, "r2"):
        claims = Claims(output, "r1")
        assert all(claims.take(what) for what in ("a", "b", "c"))
        claims.sweep({"a", "c"}.__contains__)
        assert [uri.rsplit("/", 1)[1] for uri in find(f"{output.uri}/_rtprune/claims")] == ["b.1.json"]
        assert not Claims(output, "r2").take("b")
        assert Claims(output, "r2").take("a")


def test_a_damaged_claim_is_nobodys(output: Output) -> None:
    put(f"{output.uri}/_rtprune/claims/unit.1.json", b"\0")
    assert Claims(output, "r1").take("unit")
