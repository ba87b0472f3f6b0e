"""Documents fetched ahead, many at a time, each once, and kept in memory that renderers share while they are needed."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from rtprune.documents.document import read_object
from rtprune.documents.shared_bytes import share_bytes
from rtprune.errors import DocumentError, Reason, StoreError

FETCH_THREADS = 16
FETCH_TIMEOUT_S = 1800.0  # s3fs gives up long before
KEPT_BYTES = 512 * 2**20  # of documents in memory, those on their way included
KEPT_DOCUMENTS = 256  # each takes a descriptor

#: Where a document may lie, in the order in which it is tried, and the SHA-256 of its bytes.
Name = tuple[tuple[str, ...], str]


@dataclass(frozen=True, slots=True)
class SharedDocument:
    """A document's bytes in memory.

    Attributes:
        source: URI of the object that they came from.
        file: descriptor, see ``share_bytes``.
        size: bytes.
    """

    source: str
    file: int
    size: int


@dataclass(eq=False, slots=True)
class CachedDocument:
    """A document that is waited for, here, or cannot be had.

    Attributes:
        name: what it is known by.
        users: who needs it, and what to call when it has arrived.
        outcome: None until it has arrived; the error where it cannot be had.
        begun: when its fetch began, by the monotonic clock.
    """

    name: Name
    users: dict[Hashable, Callable[[], None]] = field(default_factory=dict)
    outcome: SharedDocument | Exception | None = None
    begun: float = 0.0


class DocumentCache:
    """Fetches documents in the order in which they are asked for, as far ahead as memory allows.

    One that nobody needs any more stays until its room is needed. Errors are not kept.

    Args:
        lock: held by whoever calls, and while users are called; never during a fetch.
        starved: whether nobody has anything to do until another document arrives. Then one is fetched however little
            room there is.
    """

    def __init__(self, lock: threading.Lock, starved: Callable[[], bool]) -> None:
        self._lock = lock
        self._starved = starved
        self._room = threading.Condition(lock)
        self._documents: dict[Name, CachedDocument] = {}  # those unused for longest come first
        self._queue: deque[CachedDocument] = deque()
        self._fetching: set[CachedDocument] = set()
        self._kept = 0.0  # bytes
        self._latest_costs: deque[float] = deque(maxlen=FETCH_THREADS)
        self._closed = False
        for _ in range(FETCH_THREADS):
            self._start_thread()

    def want(self, uris: Sequence[str], doc_id: str, user: Hashable, arrived: Callable[[], None]) -> CachedDocument:
        """Have a document fetched unless it is here (it has an ``outcome``) or on its way.

        Args:
            uris: tried in order while the object there is gone or holds other bytes.
            doc_id: SHA-256 of its bytes.
            user: whoever needs it, until ``release``.
            arrived: called when it arrives; not if it is here.
        """
        name = (tuple(uris), doc_id)
        document = self._documents.get(name)
        if document is None:
            document = self._documents[name] = CachedDocument(name)
            self._queue.append(document)
            self._room.notify()
        document.users[user] = arrived
        return document

    def release(self, document: CachedDocument, user: Hashable) -> None:
        """``user`` needs it no more."""
        if document.users.pop(user, None) is None or document.users:
            return
        if self._closed:
            self._discard(document)
        elif self._documents.get(document.name) is document:
            self._documents[document.name] = self._documents.pop(document.name)
        self._room.notify()

    def look_again(self) -> None:
        """Whether anybody is starved may have changed."""
        self._room.notify()

    def expire(self) -> None:
        """Give up documents that the store has not sent in time; what it sends yet is passed over."""
        now = time.monotonic()
        for document in [each for each in self._fetching if now - each.begun > FETCH_TIMEOUT_S]:
            self._start_thread()  # instead of the one that still waits
            message = f"the store did not send {document.name[0][0]} in time"
            self._arrive(document, StoreError(message, "try again later"))

    def close(self) -> None:
        """Let go of all documents: at once, or when their last user does."""
        self._closed = True
        for document in [each for each in self._documents.values() if not each.users]:
            self._discard(document)
        self._room.notify_all()

    def _start_thread(self) -> None:
        threading.Thread(target=self._serve, name="fetch", daemon=True).start()

    def _serve(self) -> None:
        while (document := self._next()) is not None:
            outcome = fetch_shared(*document.name)
            with self._lock:
                if document in self._fetching and not self._closed:
                    self._arrive(document, outcome)
                elif isinstance(outcome, SharedDocument):
                    os.close(outcome.file)
                if document.outcome is not outcome and not self._closed:
                    return  # it had expired, and another thread works in this one's place

    def _next(self) -> CachedDocument | None:
        """The next document to be fetched, once there is room for it; None when there will be none."""
        with self._lock:
            while not self._closed:
                while self._queue and not self._queue[0].users:
                    self._discard(self._queue.popleft())
                if self._queue and self._has_room():
                    document = self._queue.popleft()
                    document.begun = time.monotonic()
                    self._fetching.add(document)
                    self._room.notify()  # there may be room for more
                    return document
                self._room.wait()
            return None

    def _has_room(self) -> bool:
        """Whether another document may be fetched; those that nobody needs make way for it."""
        costs = self._latest_costs or [KEPT_BYTES / 4]  # few at a time until a size is known
        needed = (len(self._fetching) + 1) * sum(costs) / len(costs)
        if self._kept + needed > KEPT_BYTES:
            for document in list(self._documents.values()):
                if self._kept + needed <= KEPT_BYTES:
                    break
                if not document.users and document.outcome is not None:
                    self._discard(document)
        return self._kept + needed <= KEPT_BYTES or (not self._fetching and self._starved())

    def _arrive(self, document: CachedDocument, outcome: SharedDocument | Exception) -> None:
        self._fetching.discard(document)
        document.outcome = outcome
        if isinstance(outcome, SharedDocument):
            self._kept += _cost(outcome)
            self._latest_costs.append(_cost(outcome))
        else:
            del self._documents[document.name]
        for arrived in list(document.users.values()):
            arrived()

    def _discard(self, document: CachedDocument) -> None:
        self._documents.pop(document.name, None)
        if isinstance(document.outcome, SharedDocument):
            self._kept -= _cost(document.outcome)
            os.close(document.outcome.file)


def _cost(document: SharedDocument) -> float:
    return max(document.size, KEPT_BYTES / KEPT_DOCUMENTS)


def fetch_shared(uris: Sequence[str], doc_id: str) -> SharedDocument | Exception:
    """The bytes of SHA-256 ``doc_id`` from the first of ``uris`` that has them, in shared memory.

    Returns:
        or why not: what is wrong with the first of ``uris``, or that the store does not answer.
    """
    refusal: Exception | None = None
    try:
        for uri in uris:
            try:
                data = read_object(uri)
            except DocumentError as error:
                refusal = refusal or error
                continue
            if hashlib.sha256(data).hexdigest() == doc_id:
                return SharedDocument(uri, share_bytes(data), len(data))
            message = f"{uri} changed since it was planned"
            refusal = refusal or DocumentError(Reason.CHANGED, message, "run again to read it as it is")
    except Exception as error:  # whatever it is, whoever waits must hear of it
        return error
    return refusal or ValueError(f"no URI for {doc_id}")
