"""A store that refuses, resets, does not answer or goes away: nothing is lost and nothing doubled."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from rtprune.dataset import Output, done_units
from rtprune.errors import StoreError, UsageError
from rtprune.store import create_if_absent, get, join, put
from tests.faults.conftest import Cluster
from tests.faults.proof import assert_whole
from tests.faults.proxy import FaultyStore, at_random, away, once_each
from tests.processes import wait_until
from tests.sources import write_corpus

pytestmark = pytest.mark.slow

DOCUMENTS, PAGES = 5, 2


@pytest.fixture
def source(bucket: str, tmp_path: Path) -> str:
    """A prefix in the store, written past its faults."""
    for path in write_corpus(tmp_path / "source", DOCUMENTS, PAGES).iterdir():
        put(join(bucket, "in", path.name), path.read_bytes())
    return join(bucket, "in")


def committed(output: str) -> int:
    try:
        return len(done_units(Output.existing(output)))
    except UsageError:
        return 0


def test_a_run_completes_while_every_fifth_call_fails(
    cluster: Cluster, store: FaultyStore, bucket: str, source: str
) -> None:
    store.decide = at_random(0.2, ("slow-down", "reset", "unanswered"), seed=5)
    ended = cluster.run(source, join(bucket, "out"))
    assert ended.code == 0, ended.complained
    assert set(store.befallen) == {"slow-down", "reset", "unanswered"}
    assert "10 recorded" in ended.said
    assert assert_whole(join(bucket, "out")) == {"skipped": DOCUMENTS * PAGES}


def test_lost_answers_to_writes_lose_and_double_nothing(
    cluster: Cluster, store: FaultyStore, bucket: str, source: str
) -> None:
    """What was written is written again: plans and units then exist already, and are ours all the same."""
    store.decide = once_each("unanswered", lambda method, path: method in ("PUT", "DELETE", "POST"))
    ended = cluster.run(source, join(bucket, "out"))
    assert ended.code == 0, ended.complained
    assert store.befallen["unanswered"] > DOCUMENTS * PAGES, "units, plan and rows at least"
    assert "5 looked into" in ended.said
    assert "10 recorded" in ended.said
    assert assert_whole(join(bucket, "out")) == {"skipped": DOCUMENTS * PAGES}
    store.befallen.clear()
    again = cluster.run(source, join(bucket, "out"))
    assert again.said.startswith("nothing to do"), again.said + again.complained


def test_a_store_that_is_gone_for_a_while_costs_nothing(
    cluster: Cluster, store: FaultyStore, bucket: str, source: str
) -> None:
    driver = cluster.start(source, join(bucket, "out"), "--workers", "1")
    wait_until(lambda: committed(join(bucket, "out")) >= 2, "the first units")
    store.decide = away
    back = threading.Timer(12.0, lambda: setattr(store, "decide", lambda method, path: None))
    back.start()
    ended = driver.wait()
    back.join()
    assert store.befallen["reset"] > 0, "the store was away after the run had ended"
    if ended.code:
        assert ended.complained.splitlines()[-1].startswith("rtprune: error: the store")
        ended = cluster.run(source, join(bucket, "out"))
        assert ended.code == 0, ended.complained
    assert assert_whole(join(bucket, "out")) == {"skipped": DOCUMENTS * PAGES}


@pytest.fixture
def impatient(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> FaultyStore:
    """The faulty store, of which this process waits for answers for one second."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
    monkeypatch.setattr(S3FileSystem, "read_timeout", 1)
    S3FileSystem.clear_instance_cache()
    yield store
    S3FileSystem.clear_instance_cache()


def test_answers_that_come_too_late_are_asked_for_again(impatient: FaultyStore, bucket: str) -> None:
    impatient.decide = once_each("late", lambda method, path: True)
    put(join(bucket, "x"), b"one")
    assert get(join(bucket, "x")) == b"one"
    assert not create_if_absent(join(bucket, "y"), b"mine"), "the first try did it"
    assert get(join(bucket, "y")) == b"mine"
    assert impatient.befallen["late"] >= 4


def test_a_store_that_stays_away_is_told_in_one_line(
    impatient: FaultyStore, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    impatient.decide = away
    with pytest.raises(StoreError, match="did not answer"):
        Output.existing(join(bucket, "out"))
