"""Which filesystem a URI lies on; one client, with one pool of connections, a process.

What speaks to object stores is imported once one is met: it takes a third of a second of every process.
"""

from __future__ import annotations

import os
import threading
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from rtprune.errors import UsageError
from rtprune.store.errors import store_errors

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

CONNECTIONS = 64  # requests in flight a process; botocore's default of 10 makes threads wait for each other

_MAKING: dict[int, threading.Lock] = {}  # by process, as a fork may carry one that is held


def is_remote(uri: str) -> bool:
    """Whether ``uri`` names an object store rather than a local path."""
    return uri.startswith("s3://")


def join(base: str, *parts: str) -> str:
    """``base`` and ``parts`` joined by single slashes."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def open_filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """The filesystem that ``uri`` lies on, and the path within it. All threads of a process share one per store.

    Build it where it is used: an s3fs instance must not be carried through a fork or to another machine.
    """
    if is_remote(uri):
        settings = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
        process = os.getpid()
        with _MAKING.setdefault(process, threading.Lock()):  # or each of the first threads would make one
            return _object_store(process, settings), uri.removeprefix("s3://").rstrip("/")
    if "://" in uri and not uri.startswith("file://"):
        raise UsageError(f"cannot open {uri!r}: only local paths and s3:// are supported", "use s3://bucket/prefix")
    import fsspec

    return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


@cache
def _object_store(process: int, settings: frozenset[tuple[str, str]]) -> AbstractFileSystem:
    """One s3fs instance a process and set of AWS variables; s3fs itself would make one, with its own connections, for
    each thread."""
    import fsspec
    from aiobotocore.session import AioSession  # type: ignore[import-untyped]

    session = AioSession()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
    config: dict[str, Any] = {
        "retries": {"max_attempts": 10, "mode": "adaptive"},
        "max_pool_connections": CONNECTIONS,
    }
    if "AWS_REQUEST_CHECKSUM_CALCULATION" not in os.environ:
        # over TLS boto sends its checksum behind the object, and Ceph 16 then refuses every write
        config["request_checksum_calculation"] = "when_required"
    return fsspec.filesystem(
        "s3", session=session, use_listings_cache=False, config_kwargs=config, skip_instance_cache=True
    )


def _timestamp(value: Any) -> datetime:
    """As botocore reads it, which takes two thirds of the time of a listing."""
    try:
        read = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        read = None
    if read is not None and read.tzinfo:
        return read
    from botocore.utils import parse_timestamp

    parsed: datetime = parse_timestamp(value)
    return parsed


def require_reachable(uri: str) -> None:
    """Ask the store that ``uri`` lies on for one key, without patience.

    The patience that carries a run over a store's bad minutes makes a mistyped endpoint look like a hang.

    Raises:
        StoreError: nothing answers at the endpoint, or nothing can be sent to it. Whatever it answers is left to
            whoever reads there in earnest.
    """
    import fsspec
    from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, HTTPClientError

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
