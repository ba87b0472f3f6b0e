"""Local folders and object stores behave the same behind the one door."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

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
