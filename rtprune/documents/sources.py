"""What is to be read: a file, folder, glob, ``s3://`` prefix, a list of such, or an inventory, made into objects."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rtprune.errors import UsageError
from rtprune.store import get, is_remote, open_filesystem, require_reachable, store_errors

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

MISSING = "missing"

LIST_KEYS = 1000  # objects a store lists at a time
LIST_PART = 10_000
LIST_THREADS = 16  # entries of a list that are looked up in the store at a time


@dataclass(frozen=True, slots=True)
class SourceObject:
    """One object that a source names.

    Attributes:
        uri: absolute local path, or ``s3://bucket/key``.
        size: bytes; 0 where the object is missing.
        version: changes when the object does: the ETag in a store, size and modification time of a file, "missing"
            for a list's entry that names nothing (reading it fails, so that it ends as a failed document).
    """

    uri: str
    size: int
    version: str


class ObjectList:
    """Many objects in little memory: some hundred bytes each. Iterated, it makes them anew.

    Args:
        objects: taken once, to the end.
    """

    def __init__(self, objects: Iterable[SourceObject]) -> None:
        source = iter(objects)
        self._parts: list[pa.RecordBatch] = []
        while some := list(islice(source, LIST_PART)):
            columns = {"uri": [each.uri for each in some], "size": [each.size for each in some]}
            self._parts.append(pa.RecordBatch.from_pydict(columns | {"version": [each.version for each in some]}))

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def __iter__(self) -> Iterator[SourceObject]:
        for part in self._parts:
            yield from map(SourceObject, *(part.column(name).to_pylist() for name in ("uri", "size", "version")))


class _NothingThere(UsageError):
    """The source is well formed and names no object."""


def list_objects(source: str) -> Iterator[SourceObject]:
    """Every object that ``source`` names, each once, sorted by URI.

    ``source`` is a local file, a folder (with all below it), a glob (``**`` crosses folders), the same in a store
    (``s3://bucket``, ``s3://bucket/prefix``, ``s3://bucket/a*/*.pdf``; a prefix ends at a slash, as a folder does), or
    a text file ending in ``.txt``, local or in a store, with one of these on each line; blank lines and lines that
    begin with # are passed over, relative paths start at the current folder, and lists within lists are not opened.
    Or it is an inventory, see ``rtprune.documents.inventory``. A prefix or an inventory may name millions of objects.

    All objects count, whatever their names end in, except hidden ones: below a folder or prefix, names that begin with
    a dot (``.DS_Store``, ``.git/``). A list's entry that names nothing is kept as an object that is "missing".

    Raises:
        UsageError: nothing there, access refused, or a source of an unknown kind.
        StoreError: the store does not answer.
    """
    from rtprune.documents.inventory import is_inventory, read_inventory  # here, because inspectors list nothing

    if is_remote(source):
        require_reachable(source)
    if is_inventory(source) and _is_file(source):
        return _at_least_one(source, (SourceObject(*each) for each in read_inventory(source)))
    if source.lower().endswith(".txt") and _is_file(source):
        objects = _from_list(source)
    elif is_remote(source) and not glob.has_magic(source):
        return _at_least_one(source, _remote_objects(source))  # a store lists in order
    else:
        objects = iter(_expand(source))
    by_uri = {each.uri: each for each in objects}
    return iter([by_uri[uri] for uri in sorted(by_uri)])


def _is_file(source: str) -> bool:
    return is_remote(source) or os.path.isfile(open_filesystem(source)[1])


def _at_least_one(source: str, objects: Iterator[SourceObject]) -> Iterator[SourceObject]:
    first = next(objects, None)
    if first is None:
        raise _NothingThere(f"there is nothing to read at {source}", "check its spelling; hidden files do not count")
    return chain([first], objects)


def _from_list(source: str) -> Iterator[SourceObject]:
    try:
        lines = get(source).decode("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise _NothingThere(f"{source} does not exist", "check the path of the list") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the list {source} is not UTF-8 text", "write one path or URI on each line") from error
    entries = dict.fromkeys(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not entries:
        raise _NothingThere(f"the list {source} names nothing", "write one path or URI on each line")
    remote = next(filter(is_remote, entries), None)
    if remote:
        require_reachable(remote)
    with ThreadPoolExecutor(LIST_THREADS) as threads:
        outcomes = list(threads.map(_expand_entry, entries))
    refusals = [each for each in outcomes if isinstance(each, UsageError) and not isinstance(each, _NothingThere)]
    if len(refusals) == len(outcomes):
        raise refusals[0]
    for entry, outcome in zip(entries, outcomes, strict=True):
        yield from [_missing(entry)] if isinstance(outcome, UsageError) else outcome


def _expand_entry(entry: str) -> list[SourceObject] | UsageError:
    try:
        return _expand(entry)
    except UsageError as error:
        return error


def _missing(entry: str) -> SourceObject:
    local = not is_remote(entry) and "://" not in entry
    return SourceObject(open_filesystem(entry)[1] if local else entry, 0, MISSING)


def _expand(source: str) -> list[SourceObject]:
    """The objects of a single file, folder, prefix or glob; at least one."""
    return list(_at_least_one(source, _remote_objects(source) if is_remote(source) else _local_objects(source)))


def _local_objects(source: str) -> Iterator[SourceObject]:
    _, path = open_filesystem(source)
    if os.path.exists(path):
        matches = [path]
    elif glob.has_magic(path):
        matches = glob.glob(path, recursive=True)
    else:
        raise _NothingThere(f"{source} does not exist", f"looked for {path}")
    with store_errors(source):
        for match in _topmost(matches):
            if os.path.isdir(match):
                yield from _local_folder(match)
            else:
                yield _local_object(match)


def _local_folder(folder: str) -> Iterator[SourceObject]:
    """All files below ``folder``, links followed; a folder reached twice is listed where it is met first."""
    met = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(parent)
        folders[:] = [] if real in met else sorted(name for name in folders if not name.startswith("."))
        if real in met:
            continue
        met.add(real)
        yield from (_local_object(os.path.join(parent, name)) for name in files if not name.startswith("."))


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a folder that vanished meanwhile holds nothing
        raise error


def _local_object(path: str) -> SourceObject:
    # A name that is not UTF-8 cannot be written to the dataset; escaped, it is named there and fails as unreadable.
    uri = path.encode("utf-8", "backslashreplace").decode()
    try:
        facts = os.stat(path)
    except OSError:  # a link that leads nowhere
        return SourceObject(uri, 0, MISSING)
    return SourceObject(uri, facts.st_size, f"{facts.st_size}-{facts.st_mtime_ns}")


def _remote_objects(source: str) -> Iterator[SourceObject]:
    filesystem, path = open_filesystem(source)
    bucket = path.split("/")[0]
    if not bucket or glob.has_magic(bucket):
        raise UsageError(f"{source} names no bucket", "write s3://bucket/prefix")
    with store_errors(source):
        try:
            for key, facts in _remote_facts(filesystem, path):
                size = int(facts.get("size", facts.get("Size")) or 0)
                if size or not key.endswith("/"):  # consoles mark folders by empty objects
                    yield SourceObject(f"s3://{key}", size, str(facts.get("ETag") or size).strip('"'))
        except FileNotFoundError as error:
            raise _NothingThere(f"there is no bucket {bucket}", "check its name and AWS_ENDPOINT_URL") from error


def _remote_facts(filesystem: AbstractFileSystem, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the store says of each object at, below, or matching ``path``, in order."""
    exact = _remote_object(filesystem, path)
    yield from exact.items()
    if exact or not glob.has_magic(path):
        yield from _listed(filesystem, path)
    else:
        yield from sorted(_matching(filesystem, path).items())


def _listed(filesystem: AbstractFileSystem, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects below ``path``, as the store lists them, a thousand in memory at a time."""
    bucket, _, prefix = path.partition("/")
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else "", "MaxKeys": LIST_KEYS}
    while True:
        page = filesystem.call_s3("list_objects_v2", **asked)
        for facts in page.get("Contents", ()):
            key = f"{bucket}/{facts['Key']}"
            if not _is_hidden(key, path):
                yield key, facts
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


def _matching(filesystem: AbstractFileSystem, path: str) -> dict[str, dict[str, Any]]:
    objects: dict[str, dict[str, Any]] = {}
    fixed = path[: path.index(next(filter(glob.has_magic, path.split("/"))))]
    matches: dict[str, dict[str, Any]] = filesystem.glob(path, detail=True)
    for match in _topmost(matches):
        if _is_hidden(match, fixed):
            continue
        folder = matches[match]["type"] == "directory"
        objects |= _remote_folder(filesystem, match) if folder else {match: matches[match]}
    return objects


def _remote_object(filesystem: AbstractFileSystem, path: str) -> dict[str, dict[str, Any]]:
    if "/" not in path:
        return {}
    try:
        facts = filesystem.info(path)
    except FileNotFoundError:
        return {}
    return {path: facts} if facts["type"] == "file" else {}


def _remote_folder(filesystem: AbstractFileSystem, path: str) -> dict[str, dict[str, Any]]:
    below: dict[str, dict[str, Any]] = filesystem.find(path, detail=True)
    return {key: facts for key, facts in below.items() if not _is_hidden(key, path)}


def _is_hidden(key: str, base: str) -> bool:
    parts = key[len(base) :].split("/")
    return any(part.startswith(".") and part not in (".", "..") for part in parts)  # a key is not a path


def _topmost(paths: Iterable[str]) -> Iterator[str]:
    """``paths`` sorted, without those below another of them: listing a folder brings all below it."""
    last = None
    for path in sorted(paths, key=lambda each: each.rstrip("/") + "/"):
        if last is None or not path.startswith(last):
            last = path.rstrip("/") + "/"
            yield path
