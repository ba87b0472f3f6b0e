"""What lies below a URI, listed folder by folder, many requests at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from fsspec.spec import AbstractFileSystem

from rtprune.store import local
from rtprune.store.errors import store_errors
from rtprune.store.filesystem import is_remote, open_filesystem

LISTINGS_IN_FLIGHT = 32


def find(uri: str, suffix: str = "") -> list[str]:
    """URIs of all objects below ``uri`` whose names end in ``suffix``, sorted; none when there is nothing there."""
    return sorted(each for each, _ in scan(uri, suffix))


def find_sizes(uri: str, suffix: str = "") -> dict[str, int]:
    """The size in bytes of every object below ``uri`` whose name ends in ``suffix``, by URI."""
    return dict(scan(uri, suffix))


def scan(uri: str, suffix: str = "") -> Iterator[tuple[str, int]]:
    """URI and size in bytes of every object below ``uri`` whose name ends in ``suffix``, each once, in no order.

    Memory does not grow with the number of objects. Where the store's first thousand names are not all, the folders
    directly below are listed beside one another. Objects written or deleted meanwhile may be in it or not.

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
    def ask(**asked: str) -> dict[str, Any]:
        page: dict[str, Any] = filesystem.call_s3("list_objects_v2", Bucket=bucket, **asked)
        return page

    page = ask(Prefix=prefix)
    if not page.get("IsTruncated"):
        yield from _contents(page)
        return
    folders: list[str] = []
    asked = {"Prefix": prefix, "Delimiter": "/"}
    while asked:  # objects directly below, and the names of the folders
        page = ask(**asked)
        yield from _contents(page)
        folders += [each["Prefix"] for each in page.get("CommonPrefixes", ())]
        asked = _next(asked, page)
    waiting = deque({"Prefix": folder} for folder in folders)
    running: dict[Future[dict[str, Any]], dict[str, str]] = {}
    with ThreadPoolExecutor(LISTINGS_IN_FLIGHT) as pool:
        while waiting or running:
            while waiting and len(running) < LISTINGS_IN_FLIGHT:
                asked = waiting.popleft()
                running[pool.submit(ask, **asked)] = asked
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                asked = _next(running.pop(done), done.result())
                if asked:
                    waiting.appendleft(asked)
                yield from _contents(done.result())


def _next(asked: dict[str, str], page: dict[str, Any]) -> dict[str, str]:
    """What to ask for the page after ``page``; empty where it was the last."""
    return asked | {"ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else {}


def _contents(page: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for each in page.get("Contents", ()):
        yield each["Key"], int(each["Size"])
