"""Whole objects: read, written, replaced and deleted, in the same words for local files and object stores."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rtprune.errors import StoreError
from rtprune.store import local
from rtprune.store.errors import refusal_in, store_errors
from rtprune.store.filesystem import is_remote, open_filesystem

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

READS_IN_FLIGHT = 32
BROKEN_READS_BORNE = 5
DELETED_AT_ONCE = 1000  # objects a DeleteObjects request; S3's limit
# AWS answers 409 while a rival's conditional write of the same name is under way, and asks for another try
CONFLICT_PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
_CONFLICTS = {"ConditionalRequestConflict", "OperationAborted"}


def put(uri: str, data: bytes) -> None:
    """Write one whole object; a reader sees all of it or nothing."""
    filesystem, path = open_filesystem(uri)
    with store_errors(uri):
        if is_remote(uri):
            filesystem.pipe_file(path, data)
        else:
            local.write(path, data)


def create_if_absent(uri: str, data: bytes) -> bool:
    """Write one whole object unless it exists, in one request (5 GB at most). Of any number of racers exactly one gets
    ``True``.

    ``False`` may also mean that this very call wrote it and the answer was lost: read it to tell.
    """
    filesystem, path = open_filesystem(uri)
    with store_errors(uri):
        if is_remote(uri):
            return _put_if(filesystem, path, data, IfNoneMatch="*")
        return local.create(path, data)


def get_with_version(uri: str) -> tuple[bytes, str]:
    """The whole object, and the version for ``replace_if_unchanged``. Raises as ``get`` does."""
    filesystem, path = open_filesystem(uri)
    with store_errors(uri):
        if is_remote(uri):
            return _get_object(filesystem, path)
        data = local.read(path)
        return data, local.version_of(data)


def replace_if_unchanged(uri: str, data: bytes, version: str) -> bool:
    """Write one whole object in place of the ``version`` that was read. ``False``: it is another by now, or gone.

    Readers see the old object or the new one, also where the writer is killed. On local disks this is exclusive among
    callers of this function and of ``delete``: do not ``put`` to the same name.
    """
    filesystem, path = open_filesystem(uri)
    with store_errors(uri):
        if not is_remote(uri):
            return local.replace(path, data, version)
        for spelling in (version, version.strip('"')):  # Ceph 16 knows an ETag only without its quotes
            if _put_if(filesystem, path, data, IfMatch=spelling):
                return True
            try:
                there, version_there = _get_object(filesystem, path)
            except FileNotFoundError:
                return False
            if there == data:  # written by a try whose answer was lost
                return True
            if version_there != version:
                return False
    return False


def _put_if(filesystem: AbstractFileSystem, path: str, data: bytes, **condition: str) -> bool:
    """One PutObject on a condition, whatever the size: s3fs's own exclusive write turns multi-part at 100 MiB, whose
    completion some stores do not refuse."""
    bucket, key, _ = filesystem.split_path(path)
    for pause in (*CONFLICT_PAUSES_S, None):
        try:
            filesystem.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
            return True
        except OSError as error:
            refusal = refusal_in(error)
            if refusal is None:
                raise
            if refusal.status == 412 or refusal.code == "PreconditionFailed":
                return False
            if refusal.code == "NoSuchKey":  # there is nothing to match any more
                return False
            if refusal.status != 409 and refusal.code not in _CONFLICTS:
                raise
        if pause is not None:
            time.sleep(pause * random.uniform(0.5, 1.5))
    raise StoreError(f"s3://{path} is being written by another process all the time", "run the same command again")


def exists(uri: str) -> bool:
    """Whether there is such an object; one request. Raises ``StoreError`` and ``UsageError`` as ``get`` does."""
    filesystem, path = open_filesystem(uri)
    if not is_remote(uri):
        return os.path.isfile(path)
    bucket, key, _ = filesystem.split_path(path)
    with store_errors(uri):
        try:
            filesystem.call_s3("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return False
    return True


def get(uri: str) -> bytes:
    """The whole object. Raises ``FileNotFoundError`` when there is none, ``StoreError`` when the store fails."""
    filesystem, path = open_filesystem(uri)
    with store_errors(uri):
        return _get_object(filesystem, path)[0] if is_remote(uri) else local.read(path)


def get_many(uris: Sequence[str]) -> dict[str, bytes]:
    """Several small whole objects at once, by URI, in the order asked for. Raises as ``get`` does."""
    if not uris:
        return {}
    with ThreadPoolExecutor(min(READS_IN_FLIGHT, len(uris))) as pool:
        return dict(zip(uris, pool.map(get, uris), strict=True))


def _get_object(filesystem: AbstractFileSystem, path: str) -> tuple[bytes, str]:
    """One GetObject. s3fs's ``cat_file`` asks for the size first, and may mix two versions of a large object."""
    from fsspec.asyn import sync
    from s3fs.core import S3_RETRYABLE_ERRORS

    bucket, key, _ = filesystem.split_path(path)
    for number in range(1, BROKEN_READS_BORNE + 1):
        answer = filesystem.call_s3("get_object", Bucket=bucket, Key=key)
        try:
            return sync(filesystem.loop, _body, answer), answer.get("ETag", "")
        except S3_RETRYABLE_ERRORS:  # boto's own retries end where an object's bytes begin
            if number == BROKEN_READS_BORNE:
                raise
            time.sleep(0.1 * 2**number)
    raise AssertionError


async def _body(answer: dict[str, Any]) -> bytes:
    try:
        data: bytes = await answer["Body"].read()
        return data
    finally:
        answer["Body"].close()


def delete(uri: str) -> None:
    """Remove one object; one that is gone already is no error."""
    filesystem, path = open_filesystem(uri)
    with suppress(FileNotFoundError), store_errors(uri):
        if is_remote(uri):
            filesystem.rm_file(path)
        else:
            local.remove(path)


def delete_many(uris: Sequence[str]) -> None:
    """Remove objects, a thousand a request where the store can; those that are gone already are no error."""
    if not uris or not is_remote(uris[0]):
        for uri in uris:
            delete(uri)
        return
    filesystem, _ = open_filesystem(uris[0])
    for start in range(0, len(uris), DELETED_AT_ONCE):
        some = uris[start : start + DELETED_AT_ONCE]
        with store_errors(some[0]):
            _delete_objects(filesystem, [open_filesystem(uri)[1] for uri in some])


def _delete_objects(filesystem: AbstractFileSystem, paths: Sequence[str]) -> None:
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    bucket = filesystem.split_path(paths[0])[0]
    keys = [{"Key": filesystem.split_path(path)[1]} for path in paths]
    answer: dict[str, Any] = filesystem.call_s3(
        "delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True}
    )
    for error in answer.get("Errors", ()):  # the request as a whole succeeds even if no object could be deleted
        if error.get("Code") != "NoSuchKey":
            raise translate_boto_error(ClientError({"Error": error}, "DeleteObjects"))
