"""Joining a Ray cluster, or starting a quiet local one on loopback for the length of a run."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rtprune.cluster.stopping import no_sigterm_for_children
from rtprune.errors import RTPruneError, UsageError

OBJECT_STORE_BYTES = 200_000_000  # only addresses and receipts travel through Ray
CONNECT_TIMEOUT_S = 10.0

# Read when Ray is first imported, so they are set before that and only where the user has not chosen.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_DEDUP_LOGS": "0"}
# Ray replaces 127.0.0.1 by an address of the outer network, except where this switch says that no other node will come.
# Despite its name it is read on Linux too, and with it every port that Ray opens is on loopback.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def start_local(cpus: int | None = None) -> None:
    """Start Ray in this process tree, reachable from this machine only. Raises ``RTPruneError`` when it does not."""
    ray = _import_ray(LOOPBACK)
    try:
        with no_sigterm_for_children():
            _init(
                ray,
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
            )
    except Exception as error:  # Ray raises it bare when its processes are not up in time
        raise RTPruneError(
            f"Ray could not be started here: {' '.join(str(error).split())}",
            "look into /tmp/ray/session_latest/logs; the machine may be short of memory or very busy",
        ) from error


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """Ray for the length of the block.

    A Ray that already runs in this process is used and left running. Otherwise the cluster at ``address``, or the one
    that ``RAY_ADDRESS`` names (so it is inside ``ray job submit``), is joined, and where there is neither a local one
    is started; it is left, or stopped, at the end.

    Raises:
        UsageError: no cluster answers at ``address``.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    ray = _import_ray(LOOPBACK if address == "local" else {})
    ours = not ray.is_initialized()
    if ours and address == "local":
        start_local()
    elif ours:
        _join(ray, address)
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def live_nodes() -> list[Mapping[str, float]]:
    """Resources ("CPU", "GPU", ...) of each live node of the cluster that this process is in."""
    ray = _import_ray({})
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _join(ray: Any, address: str) -> None:
    if address.startswith("ray://"):
        raise UsageError(
            "a run takes place inside its cluster, not through ray://", "use `ray job submit -- rtprune run ...`"
        )
    if address != "auto" and not _answers(address):  # Ray itself would try for minutes
        raise UsageError(
            f"no Ray cluster answers at {address!r}",
            "it is host:port of the cluster's head (--ray-address, RAY_ADDRESS); without one Ray is started here",
        )
    try:
        _init(ray, address=address)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise UsageError(
            f"the Ray cluster at {address!r} cannot be joined: {' '.join(str(error).split())}",
            "start one with `ray start --head`, or leave the address out",
        ) from error


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError):
        return False
    return True


def _init(ray: Any, **options: Any) -> None:
    """``ray.init`` without chatter, and without its SIGTERM handler where the caller has one."""
    before = signal.getsignal(signal.SIGTERM)
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    if before not in (None, signal.SIG_DFL) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _import_ray(extra: Mapping[str, str]) -> Any:
    for name, value in {**QUIET, **extra}.items():
        os.environ.setdefault(name, value)
    import ray

    return ray
