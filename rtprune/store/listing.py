"""What lies below a URI, listed many requests at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from rtprune.store import local
from rtprune.store.errors import store_errors
from rtprune.store.filesystem import is_remote, open_filesystem

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

LISTINGS_IN_FLIGHT = 32


def find(uri: str, suffix: str = "") -> list[str]:
    """URIs of all objects below ``uri`` whose names end in ``suffix``, sorted; none when there is nothing there."""
    return sorted(each for each, _ in scan(uri, suffix))


def find_sizes(uri: str, suffix: str = "") -> dict[str, int]:
    """The size in bytes of every object below ``uri`` whose name ends in ``suffix``, by URI."""
    return dict(scan(uri, suffix))


def scan(uri: str, suffix: str = "") -> Iterator[tuple[str, int]]:
    """URI and size in bytes of every object below ``uri`` whose name ends in ``suffix``, each once, in no order.

    Memory does not grow with the number of objects. A store's first thousand are one request; where there are more,
    they are listed in parallel, by the first character of their names. Objects written or deleted meanwhile may be in
    it or not.

    Raises:
        FileNotFoundError: there is no such bucket. A folder that is not there is empty.
        StoreError, UsageError: the store failed, or refused.
    """
    filesystem, path = open_filesystem(uri)
    with store_errors(uri):
        if is_remote(uri):
            bucket, key, _ = filesystem.split_path(path)
            for name, size in _keys(filesystem, bucket, f"{key}/" if key else ""):
                if name.endswith(suffix) and not name.endswith("/"):  # consoles mark folders by such names
                    yield f"s3://{bucket}/{name}", size
        else:
            yield from (each for each in _files(path) if each[0].endswith(suffix))


def _files(folder: str) -> Iterator[tuple[str, int]]:
    folders = [folder]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except (FileNotFoundError, NotADirectoryError):  # gone meanwhile, or never there
            continue
        for entry in entries:
            try:
                if entry.is_dir():
                    folders.append(entry.path)
                elif not local.is_ours(entry.name):
                    yield entry.path, entry.stat().st_size
            except FileNotFoundError:
                continue


def _keys(filesystem: AbstractFileSystem, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
    def ask(asked: dict[str, str]) -> dict[str, Any]:
        page: dict[str, Any] = filesystem.call_s3("list_objects_v2", Bucket=bucket, **asked)
        return page

    asked = {"Prefix": prefix}
    page = ask(asked)
    waiting = deque({"Prefix": each} for each in _parts(ask, prefix)) if page.get("IsTruncated") else deque()
    if not waiting:
        yield from _contents(page)
        waiting.extend(_next(asked, page))
    running: dict[Future[dict[str, Any]], dict[str, str]] = {}
    with ThreadPoolExecutor(LISTINGS_IN_FLIGHT) as pool:
        while waiting or running:
            while waiting and len(running) < LISTINGS_IN_FLIGHT:
                asked = waiting.popleft()
                running[pool.submit(ask, asked)] = asked
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                page = done.result()
                waiting.extendleft(_next(running.pop(done), page))
                yield from _contents(page)


def _parts(ask: Callable[[dict[str, str]], dict[str, Any]], prefix: str) -> list[str]:
    """Longer prefixes that together hold all that is below ``prefix``, one for each character that a name there begins
    with; none where there is but one, or where more names lie directly below than a request lists."""
    page = ask({"Prefix": prefix, "Delimiter": "/"})
    names = [each["Prefix"] for each in page.get("CommonPrefixes", ())] + [key for key, _ in _contents(page)]
    firsts = {name[len(prefix) :][:1] for name in names} - {""}
    return [prefix + each for each in sorted(firsts)] if len(firsts) > 1 and not page.get("IsTruncated") else []


def _next(asked: dict[str, str], page: dict[str, Any]) -> list[dict[str, str]]:
    """What to ask for the page after ``page``; nothing where it was the last."""
    return [asked | {"ContinuationToken": page["NextContinuationToken"]}] if page.get("IsTruncated") else []


def _contents(page: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for each in page.get("Contents", ()):
        yield each["Key"], int(each["Size"])
