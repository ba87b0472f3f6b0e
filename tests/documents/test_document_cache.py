"""Documents are fetched once, many at a time, in order, within a budget; and nothing of them is left in the end."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rtprune.documents import document_cache
from rtprune.documents.document_cache import CachedDocument, DocumentCache, SharedDocument
from rtprune.documents.shared_bytes import take_bytes
from rtprune.errors import DocumentError, Reason, StoreError
from tests.processes import wait_until

GONE = DocumentError(Reason.UNREADABLE, "it does not exist")


class Store:
    """Objects by URI; counts who asks, and sends nothing while it is held."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes | Exception] = {}
        self.asked: list[str] = []
        self.sends = threading.Event()
        self.sends.set()

    def __call__(self, uri: str) -> bytes:
        self.asked.append(uri)
        assert self.sends.wait(60)
        data = self.objects[uri]
        if isinstance(data, Exception):
            raise data
        return data


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    made = Store()
    monkeypatch.setattr(document_cache, "read_object", made)
    yield made
    made.sends.set()


class Reader:
    """Asks a cache for documents as renderers do."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.starved = False
        self.wanted: list[tuple[CachedDocument, object]] = []
        self.lock = threading.Lock()
        self.cache = DocumentCache(self.lock, lambda: self.starved)

    def want(self, name: str, data: bytes = b"", copies: tuple[str, ...] = (), user: object = "me") -> CachedDocument:
        self.store.objects.setdefault(name, data)
        with self.lock:
            doc_id = hashlib.sha256(data).hexdigest()
            document = self.cache.want((name, *copies), doc_id, user, lambda: None)  # type: ignore[arg-type]
        self.wanted.append((document, user))
        return document

    def release(self, document: CachedDocument, user: object = "me") -> None:
        with self.lock:
            self.cache.release(document, user)  # type: ignore[arg-type]


@pytest.fixture
def reader(store: Store) -> Iterator[Reader]:
    with leaving_nothing():
        made = Reader(store)
        yield made
        store.sends.set()
        with made.lock:
            made.cache.close()
        for each in made.wanted:
            made.release(*each)


@contextmanager
def leaving_nothing() -> Iterator[None]:
    """No descriptor and no thread is left that was not there before."""

    def counts() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = counts()
    yield
    wait_until(lambda: counts() <= before, f"descriptors and threads to end: {before}", 60)


def arrived(document: CachedDocument) -> SharedDocument:
    wait_until(lambda: document.outcome is not None, "the document")
    assert isinstance(document.outcome, SharedDocument), document.outcome
    return document.outcome


def failure(document: CachedDocument) -> Exception:
    wait_until(lambda: document.outcome is not None, "the document")
    assert isinstance(document.outcome, Exception)
    return document.outcome


def test_a_document_is_fetched_once(store: Store, reader: Reader) -> None:
    store.sends.clear()
    first = reader.want("a", b"data", user="one")
    assert reader.want("a", b"data", user="two") is first, "on its way"
    store.sends.set()
    assert take_bytes(os.dup(arrived(first).file)) == b"data"
    for user in ("one", "two"):
        reader.release(first, user)
    assert reader.want("a", b"data") is first, "asked for again soon after"
    reader.release(first)
    assert store.asked == ["a"]


def test_many_are_fetched_at_a_time_in_order(store: Store, reader: Reader) -> None:
    arrived(reader.want("size known"))
    store.sends.clear()
    names = [f"{number:03}" for number in range(40)]
    documents = [reader.want(name) for name in names]
    wait_until(lambda: len(store.asked) == 1 + document_cache.FETCH_THREADS, "as many as there are threads")
    assert set(store.asked[1:]) == set(names[: document_cache.FETCH_THREADS])
    store.sends.set()
    for document in documents:
        arrived(document)
        reader.release(document)


def test_memory_is_bounded_and_nobody_starves(store: Store, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_cache, "KEPT_BYTES", 1000)
    documents = [reader.want(str(number), bytes([number]) * 300) for number in range(8)]
    wait_until(lambda: sum(each.outcome is not None for each in documents) >= 3, "as many as fit")
    time.sleep(0.2)
    in_memory = sum(isinstance(each.outcome, SharedDocument) for each in documents)
    assert in_memory in (3, 4), "the first few were begun before their sizes were known"
    reader.release(documents[0])
    reader.release(documents[1])
    arrived(documents[4])
    reader.starved = True
    with reader.lock:
        reader.cache.look_again()
    for document in documents[2:]:
        arrived(document)
        reader.release(document)
        with reader.lock:
            reader.cache.look_again()
    assert sorted(store.asked) == sorted(map(str, range(8)))


def test_copies_are_tried_in_order_where_an_object_is_gone_or_changed(store: Store, reader: Reader) -> None:
    store.objects |= {"changed": b"other", "copy": b"data", "second copy": b"data"}
    store.objects["gone"] = GONE
    document = reader.want("gone", b"data", ("changed", "copy", "second copy"))
    assert arrived(document).source == "copy"
    assert store.asked == ["gone", "changed", "copy"]


@pytest.mark.parametrize(("objects", "reason"), [({"copy": b"other"}, "unreadable"), ({"a": b"other"}, "changed")])
def test_what_is_wrong_with_the_object_itself_is_reported(
    store: Store, reader: Reader, objects: dict[str, bytes], reason: str
) -> None:
    store.objects = {"a": GONE, "copy": GONE, **objects}
    error = failure(reader.want("a", b"data", ("copy",)))
    assert isinstance(error, DocumentError)
    assert error.reason == reason


def test_an_error_is_not_kept(store: Store, reader: Reader) -> None:
    store.objects["a"] = StoreError("the store is away")
    assert isinstance(failure(reader.want("a", b"data")), StoreError)
    store.objects["a"] = b"data"
    assert arrived(reader.want("a", b"data")).size == 4


def test_a_store_that_does_not_send_in_time_costs_no_thread(
    store: Store, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = threading.active_count()
    store.sends.clear()
    slow = reader.want("slow", b"data")
    wait_until(lambda: store.asked == ["slow"], "the fetch")
    monkeypatch.setattr(document_cache, "FETCH_TIMEOUT_S", 0.0)
    with reader.lock:
        reader.cache.expire()
    assert "did not send slow in time" in str(failure(slow))
    assert threading.active_count() == before + 1, "one stands in for the one that waits"
    store.sends.set()
    wait_until(lambda: threading.active_count() == before, "the one that waited to end")
    assert isinstance(slow.outcome, StoreError)


def test_what_nobody_wants_any_more_is_not_fetched(store: Store, reader: Reader) -> None:
    store.sends.clear()
    documents = [reader.want(str(number)) for number in range(40)]
    for document in documents[document_cache.FETCH_THREADS :]:
        reader.release(document)
    store.sends.set()
    for document in documents[: document_cache.FETCH_THREADS]:
        arrived(document)
    arrived(reader.want("last"))
    assert len(store.asked) == document_cache.FETCH_THREADS + 1


def test_closing_leaves_nothing_behind(store: Store) -> None:
    with leaving_nothing():
        reader = Reader(store)
        used, unused = reader.want("a", b"1"), reader.want("b", b"2")
        for document in (used, unused):
            arrived(document)
        reader.release(unused)
        store.sends.clear()
        reader.want("under way", b"3")
        wait_until(lambda: "under way" in store.asked, "the fetch")
        with reader.lock:
            reader.cache.close()
        assert take_bytes(os.dup(arrived(used).file)) == b"1", "until its last user lets go of it"
        reader.release(used)
        store.sends.set()
