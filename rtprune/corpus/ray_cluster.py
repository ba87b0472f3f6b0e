"""The Ray cluster of a run: joined, or started on loopback for its length, and how many workers it carries."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rtprune.corpus.stopping import no_sigterm_for_children
from rtprune.errors import RTPruneError, UsageError

OBJECT_STORE_BYTES = 200_000_000  # only addresses and receipts travel through Ray
CONNECT_TIMEOUT_S = 10.0

CPUS_PER_WORKER = 2
BYTES_PER_PARAMETER = 4  # a CPU computes in float32
BYTES_BESIDE_WEIGHTS = 2**30
MOST_RENDERERS = 8  # for one worker: what one GPU reads is rendered by fewer

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


@dataclass(frozen=True)
class Placement:
    """Actors of one kind on a cluster.

    Attributes:
        workers: how many actors.
        cpus: logical CPUs each one holds; also its number of computing threads, at least one.
        gpus: logical GPUs each one holds: Ray's bookkeeping, which also sets ``CUDA_VISIBLE_DEVICES``.
        renderers: processes that render pages for each one.
    """

    workers: int
    cpus: float
    gpus: float = 0.0
    renderers: int = 1

    @property
    def threads(self) -> int:
        """Threads a worker may compute with."""
        return max(1, int(self.cpus))

    def describe(self) -> str:
        """For messages: "2 CPUs and 1 GPU"."""
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


def place_workers(
    nodes: Sequence[Mapping[str, float]], workers: int | None = None, *, parameters: int = 0, reading: bool = True
) -> Placement:
    """Where the actors that hold the model go: one per GPU where there are any, else one per two CPU cores.

    On CPUs there are no more than memory holds models, and at least one.

    Args:
        nodes: resources of each live node, as in Ray's ``Resources`` ("CPU", "GPU", "memory" in bytes).
        workers: as many as this instead; they then share what there is.
        parameters: number of the model's weights.
        reading: whether there is a model to read with; without one a worker is a core that renders.
    """
    if not reading:
        total = int(sum(node.get("CPU", 0) for node in nodes)) or 1
        return Placement(workers or total, min(1.0, total / (workers or total)))
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if gpus:
        count = workers or gpus
        return _beside_gpus(nodes, count, 1.0 / math.ceil(count / gpus))
    usable = [node for node in nodes if node.get("CPU", 0) >= 1] or [{"CPU": 1.0}]
    cores = [int(node["CPU"]) for node in usable]
    each = min(CPUS_PER_WORKER, *cores)
    count = sum(core // each for core in cores)
    if workers is None:
        model_bytes = parameters * BYTES_PER_PARAMETER + BYTES_BESIDE_WEIGHTS
        held = [
            min(core // each, int(node["memory"] // model_bytes)) if "memory" in node else core // each
            for node, core in zip(usable, cores, strict=True)
        ]
        return Placement(max(1, sum(held)), float(each))
    if workers == count:
        return Placement(count, float(each))
    share = sum(cores) / workers
    return Placement(workers, float(min(each, int(share))) if share >= 1 else share)


def _beside_gpus(nodes: Sequence[Mapping[str, float]], workers: int, share: float) -> Placement:
    """A core for the worker itself; of the others on its node, even shares for renderers."""
    cores = [node.get("CPU", 1.0) * share / node["GPU"] for node in nodes if node.get("GPU", 0)]
    renderers = max(1, min(MOST_RENDERERS, int(min(cores)) - 1))
    return Placement(workers, 1.0 + renderers if min(cores) >= 1 + renderers else 1.0, share, renderers)


def place_inspectors(nodes: Sequence[Mapping[str, float]], batches: int) -> Placement:
    """Where the actors that look into documents go: one per CPU core, but no more than there are ``batches``."""
    cores = int(sum(node.get("CPU", 0) for node in nodes)) or 1
    return Placement(max(1, min(cores, batches)), 1.0)
