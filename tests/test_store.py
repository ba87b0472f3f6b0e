"""Local folders and object stores behave the same behind the one door."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from botocore.exceptions import ClientError
from s3fs import S3FileSystem
from s3fs.errors import translate_boto_error

from rtprune.errors import StoreError
from rtprune.store import create_if_absent, delete, find, get, get_many, join, put


@pytest.fixture(params=["local", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A base URI whose name would mean something to a glob."""
    base = str(tmp_path) if request.param == "local" else request.getfixturevalue("bucket")
    return join(base, "a[1]*")


def test_what_is_put_is_got_and_put_again_replaces_it(place: str) -> None:
    put(join(place, "x"), b"one")
    put(join(place, "x"), b"two")
    assert get(join(place, "x")) == b"two"


def test_of_many_creators_exactly_one_wins_and_its_bytes_stay(place: str) -> None:
    start = Barrier(8)

    def create(number: int) -> bool:
        start.wait()
        return create_if_absent(join(place, "x"), b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert get(join(place, "x")) == b"%d" % won.index(True)


def answering(monkeypatch: pytest.MonkeyPatch, *codes: str) -> list[str]:
    """Conditional writes are answered by these error codes, one after the other, then done; returns those to come."""
    call_s3 = S3FileSystem._call_s3
    to_come = list(codes)

    async def call(self: S3FileSystem, method: str, *given: Any, **options: Any) -> Any:
        if method == "put_object" and to_come:
            raise translate_boto_error(ClientError({"Error": {"Code": to_come.pop(0)}}, "PutObject"))
        return await call_s3(self, method, *given, **options)

    monkeypatch.setattr(S3FileSystem, "_call_s3", call)
    return to_come


def test_a_store_that_refuses_a_taken_name_in_few_words_is_understood(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, "PreconditionFailed")
    assert create_if_absent(join(bucket, "x"), b"") is False


def test_a_conditional_write_in_conflict_is_tried_again(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    to_come = answering(monkeypatch, "ConditionalRequestConflict", "ConditionalRequestConflict")
    assert create_if_absent(join(bucket, "x"), b"mine") is True
    assert not to_come
    assert get(join(bucket, "x")) == b"mine"


def test_other_refusals_of_a_conditional_write_are_errors(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "NotImplemented")
    with pytest.raises(StoreError):
        create_if_absent(join(bucket, "x"), b"")


def test_a_local_fault_is_told_as_such_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left on device \(check the disk"):
        put(str(tmp_path / "x"), b"")
    assert not list(tmp_path.iterdir())


def test_what_is_not_there_is_said_so_and_can_be_deleted(place: str) -> None:
    for call in (lambda: get(join(place, "x")), lambda: get_many([join(place, "x")])):
        with pytest.raises(FileNotFoundError):
            call()
    delete(join(place, "x"))


def test_a_path_below_a_file_is_not_there(tmp_path: Path) -> None:
    put(str(tmp_path / "file"), b"")
    with pytest.raises(FileNotFoundError):
        get(str(tmp_path / "file" / "below"))


def test_many_objects_come_in_the_order_asked_for(place: str) -> None:
    uris = [join(place, f"{number:02d}") for number in range(40)]
    for number, uri in enumerate(uris):
        put(uri, b"%d" % number)
    assert list(get_many(uris[::-1]).items()) == [(uri, b"%d" % number) for number, uri in enumerate(uris)][::-1]
    assert get_many([]) == {}


def test_find_names_all_below_a_folder_and_nothing_beside_it(place: str) -> None:
    below = [join(place, "in", "a.json"), join(place, "in", "deep", "b.json")]
    for uri in (*below, join(place, "in", "c.txt"), join(place, "in-other", "d.json")):
        put(uri, b"")
    assert find(join(place, "in"), ".json") == below
    assert find(join(place, "none")) == []
