"""Local folders and S3-compatible object stores behind one door.

Endpoint and credentials come from the standard AWS variables (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ...),
so MinIO and other compatible stores work without further settings.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import fsspec
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
)
from fsspec.spec import AbstractFileSystem

from rtprune.errors import StoreError, UsageError

CONFLICTS_BORNE = 5  # AWS asks for another try while a rival's conditional write of the same name is under way


def is_remote(uri: str) -> bool:
    """Whether ``uri`` names an object store rather than a local path."""
    return uri.startswith("s3://")


def open_filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """The filesystem that ``uri`` lies on, and the path within it.

    Build it where it is used: an s3fs instance must not be carried through a fork or to another machine.
    """
    if is_remote(uri):
        options: dict[str, Any] = {
            "use_listings_cache": False,
            "config_kwargs": {"retries": {"max_attempts": 10, "mode": "adaptive"}},
        }
        return fsspec.filesystem("s3", **options), uri.removeprefix("s3://").rstrip("/")
    if "://" in uri and not uri.startswith("file://"):
        raise UsageError(f"cannot open {uri!r}: only local paths and s3:// are supported", "use s3://bucket/prefix")
    return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


def require_reachable(uri: str) -> None:
    """Ask the store that ``uri`` lies on for one key, without patience.

    The patience that carries a run over a store's bad minutes makes a mistyped endpoint look like a hang.

    Raises:
        StoreError: nothing answers at the endpoint, or nothing can be sent to it. Whatever it answers is left to
            whoever reads there in earnest.
    """
    options = {"config_kwargs": {"connect_timeout": 10, "retries": {"total_max_attempts": 2, "mode": "standard"}}}
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True, **options)
    with store_errors(uri):
        try:
            filesystem.call_s3("list_objects_v2", Bucket=uri.removeprefix("s3://").split("/")[0], MaxKeys=1)
        except (EndpointConnectionError, ConnectTimeoutError):
            raise
        except Exception as error:
            if type(error) is HTTPClientError:  # no request can be made: a password in the endpoint, for one
                raise


def join(base: str, *parts: str) -> str:
    """``base`` and ``parts`` joined by single slashes."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def put(uri: str, data: bytes) -> None:
    """Write one whole object; a reader sees all of it or nothing.

    Local files are written aside and renamed, because a local write is not atomic as a put is.
    """
    filesystem, path = open_filesystem(uri)
    with store_errors(uri):
        if is_remote(uri):
            filesystem.pipe_file(path, data)
            return
        with _written_aside(path, data) as aside:
            os.replace(aside, path)


@contextmanager
def _written_aside(path: str, data: bytes) -> Iterator[str]:
    """A file with ``data`` beside ``path``, gone afterwards; hidden, so that readers of the folder pass over what a
    killed writer left."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    aside = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.part")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        with suppress(FileNotFoundError):
            os.remove(aside)


def create_if_absent(uri: str, data: bytes) -> bool:
    """Write one whole object unless it exists. Of any number of racers exactly one gets ``True``."""
    filesystem, path = open_filesystem(uri)
    with store_errors(uri):
        if is_remote(uri):
            return _put_if_absent(filesystem, path, data)
        with _written_aside(path, data) as aside:
            try:
                os.link(aside, path)  # fails if the name is taken, and never shows half a file
            except FileExistsError:
                return False
        return True


def _put_if_absent(filesystem: AbstractFileSystem, path: str, data: bytes) -> bool:
    for _ in range(CONFLICTS_BORNE):
        try:
            filesystem.pipe_file(path, data, mode="create")
            return True
        except FileExistsError:
            return False
        except OSError as error:
            # s3fs knows "it exists" only in AWS's own words; MinIO and others say no more than the code
            cause = error.__cause__
            code = cause.response["Error"].get("Code") if isinstance(cause, ClientError) else None
            if code == "PreconditionFailed":
                return False
            if code != "ConditionalRequestConflict":
                raise
    raise StoreError(f"s3://{path} is being written by another process all the time", "run the same command again")


def get(uri: str) -> bytes:
    """The whole object. Raises ``FileNotFoundError`` when there is none, ``StoreError`` when the store fails."""
    filesystem, path = open_filesystem(uri)
    with store_errors(uri):
        data: bytes = filesystem.cat_file(path)
        return data


def get_many(uris: Sequence[str]) -> dict[str, bytes]:
    """Several small whole objects at once, by URI, in the order asked for. Raises as ``get`` does."""
    if not uris:
        return {}
    filesystem, _ = open_filesystem(uris[0])  # once: each thread would make its own connections
    paths = [open_filesystem(uri)[1] for uri in uris]

    def read(uri: str, path: str) -> bytes:
        with store_errors(uri):
            data: bytes = filesystem.cat_file(path)
            return data

    with ThreadPoolExecutor(min(16, len(uris))) as pool:
        return dict(zip(uris, pool.map(read, uris, paths), strict=True))


def find(uri: str, suffix: str = "") -> list[str]:
    """URIs of all objects below ``uri`` whose names end in ``suffix``, sorted; none when there is nothing there."""
    filesystem, path = open_filesystem(uri)
    scheme = "s3://" if is_remote(uri) else ""
    with store_errors(uri):
        try:
            paths = filesystem.find(path)
        except FileNotFoundError:
            return []
    return sorted(scheme + found for found in paths if found.startswith(path + "/") and found.endswith(suffix))


def delete_many(uris: Sequence[str]) -> None:
    """Remove objects, a thousand a request where the store can; those that are gone already are no error."""
    if not uris:
        return
    filesystem, _ = open_filesystem(uris[0])
    with store_errors(uris[0]):
        if is_remote(uris[0]):
            filesystem.rm([open_filesystem(uri)[1] for uri in uris])
            return
    for uri in uris:
        delete(uri)


def delete(uri: str) -> None:
    """Remove one object; one that is gone already is no error."""
    filesystem, path = open_filesystem(uri)
    with store_errors(uri):
        try:
            filesystem.rm_file(path)
        except FileNotFoundError:
            return


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn what boto, s3fs and the operating system raise into this package's errors; secrets never in a message."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(f"no object {uri}") from error
    except NoCredentialsError as error:
        raise UsageError(
            f"no credentials for {uri}", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        ) from error
    except PermissionError as error:
        hint = (
            "check the AWS credentials, the bucket's policy and this machine's clock"
            if is_remote(uri)
            else "check its permissions"
        )
        raise UsageError(f"access to {uri} was refused", hint) from error
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        raise StoreError(f"the store refused {uri}: {code}") from error
    except OSError as error:
        if is_remote(uri):
            raise _no_answer(uri, error) from error
        raise StoreError(f"{uri}: {error.strerror or error}", "check the disk it lies on") from error
    except BotoCoreError as error:
        raise _no_answer(uri, error) from error


def _no_answer(uri: str, error: Exception) -> StoreError:
    return StoreError(
        f"the store did not answer for {uri}: {type(error).__name__}", "check AWS_ENDPOINT_URL and the network"
    )
