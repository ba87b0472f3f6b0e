"""Local folders and object stores behave the same behind the one door."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Barrier

import boto3
import pytest
from moto.core.authorization import enable_iam_authentication

from rtprune.errors import StoreError, UsageError
from rtprune.store import (
    create_if_absent,
    delete,
    delete_many,
    exists,
    filesystem,
    find,
    find_sizes,
    get,
    get_many,
    get_with_version,
    join,
    objects,
    open_filesystem,
    probe,
    put,
    replace_if_unchanged,
)
from tests.faults.proxy import FaultyStore, _send, once_each


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


# A store that answers otherwise


MANY = 17  # requests

BUCKET_QUERIES = ("delete", "uploads", "versioning", "versions")


class OddStore(FaultyStore):
    """The store, of which a test decides what it refuses, which headers it passes over and how much it lists.

    Attributes:
        refuse: a request to the status and code it is refused with, or ``None``.
        ignored: headers that are not passed on.
        asked: how often each operation was asked for, as "GET object", "GET list" or "PUT object".
        most_at_once: requests in flight together, at most.
        held: requests, by their paths, that are answered once ``MANY`` are in flight together, or after a while.
        listed_at_once: names in an answer that lists all below a prefix.
    """

    def __init__(self, behind: str) -> None:
        super().__init__(behind)
        self.refuse: Callable[[str], tuple[int, str] | None] = lambda operation: None
        self.ignored: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.most_at_once = 0
        self.held: Callable[[str], bool] = lambda path: False
        self.listed_at_once = 1000
        self.behind = behind
        self._at_once = 0
        self._lock = threading.Condition()

    def _answer(self, call: BaseHTTPRequestHandler) -> None:
        query = call.path.partition("?")[2]
        first = query.partition("&")[0].rstrip("=")
        kind = "list" if "list-type" in query else first if first in BUCKET_QUERIES else "object"
        if kind == "list" and "delimiter" not in query:
            call.path += f"&max-keys={self.listed_at_once}"
        with self._lock:
            self.asked[f"{call.command} {kind}"] += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self._lock.notify_all()
            if self.held(call.path):
                self._lock.wait_for(lambda: self.most_at_once >= MANY, 20.0)
        try:
            refused = self.refuse(f"{call.command} {kind}")
            for header in self.ignored:
                del call.headers[header]
            if refused:
                call.rfile.read(int(call.headers.get("Content-Length") or 0))
                body = f"<Error><Code>{refused[1]}</Code><Message>no</Message></Error>".encode()
                _send(call, refused[0], [("Content-Type", "application/xml")], body)
            else:
                super()._answer(call)
        finally:
            with self._lock:
                self._at_once -= 1


@pytest.fixture
def odd(bucket: str, store_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[OddStore]:
    store = OddStore(store_endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
    monkeypatch.setattr(objects, "CONFLICT_PAUSES_S", (0.01, 0.02, 0.03))
    yield store
    store.close()


def one_after_the_other(*answers: tuple[int, str]) -> Callable[[str], tuple[int, str] | None]:
    """Writes are refused with these, then no more."""
    to_come = list(answers)
    return lambda operation: to_come.pop(0) if operation == "PUT object" and to_come else None


@pytest.mark.parametrize("code", ["PreconditionFailed", "SomethingElse", "412"])
def test_a_taken_name_is_understood_in_any_words(code: str, odd: OddStore, bucket: str) -> None:
    odd.refuse = one_after_the_other((412, code))
    assert create_if_absent(join(bucket, "x"), b"") is False


def test_a_conditional_write_in_conflict_is_tried_again(odd: OddStore, bucket: str) -> None:
    odd.refuse = one_after_the_other((409, "ConditionalRequestConflict"), (409, "OperationAborted"))
    assert create_if_absent(join(bucket, "x"), b"mine") is True
    assert odd.asked["PUT object"] == 3
    assert get(join(bucket, "x")) == b"mine"


def test_a_conflict_without_end_is_an_error(odd: OddStore, bucket: str) -> None:
    odd.refuse = lambda operation: (409, "ConditionalRequestConflict")
    with pytest.raises(StoreError, match="another process"):
        create_if_absent(join(bucket, "x"), b"mine")


def test_other_refusals_of_a_conditional_write_are_errors(odd: OddStore, bucket: str) -> None:
    odd.refuse = one_after_the_other((501, "NotImplemented"))
    with pytest.raises(StoreError, match=r"refused PutObject.*NotImplemented"):
        create_if_absent(join(bucket, "x"), b"")


def test_a_large_object_is_created_in_one_request(odd: OddStore, bucket: str) -> None:
    data = bytes(101 * 2**20)
    assert create_if_absent(join(bucket, "x"), data) is True
    assert odd.asked == {"PUT object": 1}


def test_a_read_is_one_request(odd: OddStore, bucket: str) -> None:
    put(join(bucket, "x"), b"data")
    odd.asked.clear()
    assert get(join(bucket, "x")) == b"data"
    assert exists(join(bucket, "x"))
    assert not exists(join(bucket, "y"))
    assert odd.asked == {"GET object": 1, "HEAD object": 2}


def test_many_reads_are_in_flight_together(odd: OddStore, bucket: str) -> None:
    uris = [join(bucket, f"{number:03d}") for number in range(40)]
    for uri in uris:
        put(uri, b"x")
    odd.most_at_once, odd.held = 0, lambda path: True
    get_many(uris)
    assert odd.most_at_once >= MANY


def test_all_threads_share_one_client(bucket: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len({id(open_filesystem(bucket)[0]) for _ in pool.map(lambda _: time.sleep(0.01), range(16))}) == 1
        clients = list(pool.map(lambda _: id(open_filesystem(bucket)[0]), range(16)))
    assert set(clients) == {id(open_filesystem(bucket)[0])}


def test_threads_that_are_the_first_to_ask_share_one_client(bucket: str) -> None:
    """Each client of its own would take a third of a second, and connections."""
    begin = threading.Barrier(16)

    def first(_: int) -> object:
        begin.wait()
        return open_filesystem(bucket)[0]

    filesystem._object_store.cache_clear()
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(first, range(16)))
    assert all(each is made[0] for each in made)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "InvalidArgument", "refused GetObject.*InvalidArgument"),
        (403, "RequestTimeTooSkewed", "GetObject was answered RequestTimeTooSkewed.*clock"),
        (403, "AccessDenied", "GetObject was answered AccessDenied.*s3:GetObject"),
        (400, "a secret & more", "an unknown error"),
    ],
)
def test_errors_name_operation_and_code(status: int, code: str, expected: str, odd: OddStore, bucket: str) -> None:
    odd.refuse = lambda operation: (status, code.replace("&", "&amp;"))
    with pytest.raises(UsageError if status == 403 else StoreError, match=expected) as caught:
        get(join(bucket, "x"))
    assert "secret" not in str(caught.value)


def test_an_object_that_may_not_be_deleted_is_an_error_among_many(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request succeeds, and names the objects that it did not delete in its answer."""
    filesystem = open_filesystem(bucket)[0]
    answer = {"Errors": [{"Key": "x", "Code": "AccessDenied", "Message": ""}]}
    monkeypatch.setattr(filesystem, "call_s3", lambda *given, **options: answer)
    with pytest.raises(UsageError, match=r"DeleteObjects was answered AccessDenied.*s3:DeleteObject"):
        delete_many([join(bucket, "x")])


# Replacing


def test_an_object_is_replaced_only_as_it_was_read(place: str) -> None:
    uri = join(place, "x")
    put(uri, b"one")
    data, version = get_with_version(uri)
    assert data == b"one"
    assert replace_if_unchanged(uri, b"two", version) is True
    assert replace_if_unchanged(uri, b"three", version) is False
    assert get(uri) == b"two"
    delete(uri)
    assert replace_if_unchanged(uri, b"four", version) is False
    assert not exists(uri)
    assert find(place) == []


def test_of_many_that_replace_a_version_one_wins(place: str) -> None:
    uri = join(place, "x")
    put(uri, b"old")
    _, version = get_with_version(uri)
    start = Barrier(8)

    def replace(number: int) -> bool:
        start.wait()
        return replace_if_unchanged(uri, b"%d" % number, version)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(replace, range(8)))
    assert won.count(True) == 1
    assert get(uri) == b"%d" % won.index(True)


def test_a_replacement_whose_answer_is_lost_is_known_as_ours(odd: OddStore, bucket: str) -> None:
    put(join(bucket, "x"), b"one")
    _, version = get_with_version(join(bucket, "x"))
    odd.decide = once_each("unanswered", lambda method, path: method == "PUT")
    assert replace_if_unchanged(join(bucket, "x"), b"two", version) is True
    assert odd.befallen == {"unanswered": 1}


def test_a_store_that_knows_etags_without_quotes_replaces(odd: OddStore, bucket: str) -> None:
    put(join(bucket, "x"), b"one")
    _, version = get_with_version(join(bucket, "x"))
    odd.refuse = one_after_the_other((412, "PreconditionFailed"))
    assert version.startswith('"')
    assert replace_if_unchanged(join(bucket, "x"), b"two", version) is True


WRITERS = """
import os, sys
from rtprune.store import get_with_version, replace_if_unchanged
uri, size = sys.argv[1], int(sys.argv[2])
get_with_version(uri)  # what is imported for it is there before a writer begins
for _ in sys.stdin:
    writer = os.fork()
    while not writer:
        data, version = get_with_version(uri)
        replace_if_unchanged(uri, bytes([data[0] + 1 if data[0] < 122 else 97]) * size, version)
    print(writer, flush=True)
    os.waitpid(writer, 0)
"""


def test_a_writer_killed_while_replacing_leaves_a_whole_file_and_blocks_nobody(tmp_path: Path) -> None:
    size, uri = 2_000_000, str(tmp_path / "x")
    put(uri, b"a" * size)
    left: list[str] = []
    command = [sys.executable, "-c", WRITERS, uri, str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writers:
        assert writers.stdin is not None
        assert writers.stdout is not None
        for number in range(30):
            print(file=writers.stdin, flush=True)
            writer = int(writers.stdout.readline())
            time.sleep(0.05 + 0.001 * number)
            os.kill(writer, signal.SIGKILL)
            while is_running(writer):
                time.sleep(0.001)
            left += [name for name in os.listdir(tmp_path) if name != "x"]
            data, version = get_with_version(uri)
            assert data == data[:1] * size
            assert find(str(tmp_path)) == [uri]
            assert replace_if_unchanged(uri, b"a" * size, version)
        writers.stdin.close()
    assert left, "no writer was killed at work"
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".lock")]


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# Listing


def test_find_names_all_below_a_folder_and_nothing_beside_it(place: str) -> None:
    below = [join(place, "in", "a.json"), join(place, "in", "deep", "b.json")]
    for uri in (*below, join(place, "in", "c.txt"), join(place, "in-other", "d.json")):
        put(uri, b"")
    assert find(join(place, "in"), ".json") == below
    assert find(join(place, "none")) == []


def test_sizes_are_of_every_object_below(place: str) -> None:
    sizes = {join(place, f"{number:02x}", "u.parquet"): number for number in range(30)}
    for uri, size in sizes.items():
        put(uri, bytes(size))
    put(join(place, "00", "u.txt"), b"")
    assert find_sizes(place, ".parquet") == sizes
    assert find_sizes(join(place, "none")) == {}


def fill(odd: OddStore, bucket: str, keys: list[str]) -> None:
    """Written past ``odd``, which lists 20 keys a request from now on."""
    odd.listed_at_once = 20
    client = boto3.client("s3", endpoint_url=odd.behind)
    for key in keys:
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=b"x")


def test_a_long_listing_is_asked_for_in_parallel_and_misses_nothing(odd: OddStore, bucket: str) -> None:
    keys = [f"pages/{number:02x}/{number:05d}" for number in range(256)]
    keys += [
        *(f"pages/compacted/{number:06d}" for number in range(9)),
        "pages/compacted/deep/x",
        "pages/stray",
        "pages/ä/x",
        "pages/ f/g",
    ]
    fill(odd, bucket, [*keys, "pages-other/x", "pages/"])
    odd.held = lambda path: "delimiter" not in path and re.search("prefix=pages%2F[^&]", path) is not None
    assert find_sizes(join(bucket, "pages")) == {join(bucket, key): 1 for key in keys}
    assert odd.asked == {"GET list": 2 + 19 + 1}, "two, one for each first character, and one more for c"
    assert odd.most_at_once >= MANY


def test_a_long_listing_of_a_flat_folder_is_asked_for_page_by_page(odd: OddStore, bucket: str) -> None:
    keys = [f"flat/{number:05d}" for number in range(50)]
    fill(odd, bucket, keys)
    assert find(join(bucket, "flat")) == [join(bucket, key) for key in keys]
    assert odd.asked == {"GET list": 3 + 1}


def test_a_short_listing_is_one_request(odd: OddStore, bucket: str) -> None:
    fill(odd, bucket, ["a/x", "a/b/y"])
    assert find_sizes(join(bucket, "a")) == {join(bucket, "a/x"): 1, join(bucket, "a/b/y"): 1}
    assert find(join(bucket, "none")) == []
    assert odd.asked == {"GET list": 2}


# Probing


def left_in(bucket: str) -> int:
    kept = boto3.client("s3").list_object_versions(Bucket=bucket.removeprefix("s3://"))
    return len(kept.get("Versions", [])) + len(kept.get("DeleteMarkers", []))


def test_a_good_place_passes_and_nothing_is_left(place: str) -> None:
    probe(place)
    assert find(place) == []
    if not place.startswith("s3://"):
        assert os.listdir(join(place, "_rtprune")) == []


@pytest.mark.parametrize("versioned", [False, True])
def test_nothing_is_left_in_a_bucket(versioned: bool, bucket: str, store_endpoint: str) -> None:
    client = boto3.client("s3", endpoint_url=store_endpoint)
    if versioned:
        client.put_bucket_versioning(Bucket=bucket.removeprefix("s3://"), VersioningConfiguration={"Status": "Enabled"})
    probe(join(bucket, "out"))
    assert left_in(bucket) == 0


def test_a_store_that_overwrites_is_refused(odd: OddStore, bucket: str) -> None:
    odd.ignored = {"If-None-Match"}
    with pytest.raises(UsageError, match=r"overwrites.*\(use a store with conditional writes"):
        probe(join(bucket, "out"))
    assert left_in(bucket) == 0


def test_a_versioned_bucket_that_ignores_the_condition_is_named(odd: OddStore, bucket: str) -> None:
    boto3.client("s3").put_bucket_versioning(
        Bucket=bucket.removeprefix("s3://"), VersioningConfiguration={"Status": "Enabled"}
    )
    odd.ignored = {"If-None-Match"}
    with pytest.raises(UsageError, match=r"bucket is versioned.*without versioning"):
        probe(join(bucket, "out"))
    assert left_in(bucket) == 0


def test_a_store_that_replaces_what_has_changed_is_refused(odd: OddStore, bucket: str) -> None:
    odd.ignored = {"If-Match"}
    with pytest.raises(UsageError, match="ignores the condition If-Match"):
        probe(join(bucket, "out"))
    assert left_in(bucket) == 0


def test_a_store_without_conditions_is_refused_by_name(odd: OddStore, bucket: str) -> None:
    odd.refuse = lambda operation: (501, "NotImplemented") if operation == "PUT object" else None
    with pytest.raises(UsageError, match=r"this store has no conditional writes \(PutObject was answered Not"):
        probe(join(bucket, "out"))


@pytest.mark.parametrize(
    ("refused", "operation", "permission"),
    [
        ("PUT object", "PutObject", "s3:PutObject"),
        ("GET object", "GetObject", "s3:GetObject"),
        ("GET list", "ListObjectsV2", "s3:ListBucket"),
        ("DELETE object", "DeleteObject", "s3:DeleteObject"),
    ],
)
def test_a_refused_operation_is_named(
    refused: str, operation: str, permission: str, odd: OddStore, bucket: str
) -> None:
    odd.refuse = lambda asked: (403, "AccessDenied") if asked == refused else None
    with pytest.raises(UsageError, match=rf"{operation} was refused \(AccessDenied\).*allow {permission} "):
        probe(join(bucket, "out"))
    assert left_in(bucket) == (1 if operation == "DeleteObject" else 0)


def test_wrong_credentials_and_missing_buckets_are_named(bucket: str) -> None:
    with enable_iam_authentication(), pytest.raises(UsageError, match="InvalidAccessKeyId"):
        probe(join(bucket, "out"))
    with pytest.raises(UsageError, match="create the bucket"):
        probe("s3://no-such-bucket-here/out")


@pytest.mark.parametrize(("function", "needed"), [("os.link", "hard links"), ("fcntl.flock", "locks")])
def test_a_folder_without_links_or_locks_is_refused(
    function: str, needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*given: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(function, unsupported)
    with pytest.raises(UsageError, match=f"Operation not permitted.*{needed}"):
        probe(str(tmp_path / "new" / "out"))
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write OUTPUT"):
        probe(str(tmp_path / "file" / "out"))
