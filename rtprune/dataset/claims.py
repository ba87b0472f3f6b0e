"""Several runs on one OUTPUT share its work: who is at what, and who has died at it.

A claim is made by creating ``_rtprune/claims/<what>.<n>.json``, which only one run can. It holds as long as its run's
heartbeat, ``_rtprune/alive/<run>.json``, changes; then the next run creates number n + 1. Clocks are not compared: a
heartbeat that did not change while the one who looks counted `LEASE_S` on its own monotonic clock is still.

Claims only keep runs from doing the same work twice. What becomes part of the dataset is decided by the units' markers,
so that a run wrongly taken for dead does no harm.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rtprune.dataset.output import Output
from rtprune.errors import RTPruneError, StoreError
from rtprune.store import create_if_absent, delete, delete_many, find, get, join, put

BEAT_S = 10.0
LEASE_S = 60.0

_log = logging.getLogger(__name__)


@contextmanager
def heartbeat(output: Output, run_id: str, every_s: float = BEAT_S) -> Iterator[None]:
    """Show other runs that this one is alive, for the length of the block."""
    ended = threading.Event()
    put(_alive_uri(output, run_id), _beat(0))

    def beat() -> None:
        number = 0
        while not ended.wait(every_s):
            number += 1
            with suppress(RTPruneError, OSError):  # a store that is away for a while; the next one will do
                put(_alive_uri(output, run_id), _beat(number))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(StoreError):  # others see soon enough that it beats no more
            delete(_alive_uri(output, run_id))


class Claims:
    """What a run may work at, because no other live run does.

    Args:
        run_id: the run that claims; claiming twice is claiming once.
        lease_s: a run whose heartbeat stands still for so long is dead.
        clock: monotonic seconds.
    """

    def __init__(
        self, output: Output, run_id: str, lease_s: float = LEASE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._output = output
        self._run_id = run_id
        self._lease_s = lease_s
        self._clock = clock
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._lost: set[str] = set()

    def take(self, what: str) -> bool:
        """Whether this run may work at ``what``. Raises ``StoreError``."""
        number = 1
        while True:
            uri = join(_claims(self._output), f"{what}.{number}.json")
            if create_if_absent(uri, json.dumps({"run_id": self._run_id}).encode()):
                return True
            try:
                owner = _owner(get(uri))
            except FileNotFoundError:
                continue  # swept away just now
            if owner == self._run_id:
                return True
            if owner is not None and self.alive(owner):
                return False
            number += 1

    def alive(self, run_id: str) -> bool:
        """Whether a run is at work, as far as can be told. Raises ``StoreError``."""
        try:
            beat = get(_alive_uri(self._output, run_id))
        except FileNotFoundError:
            return False
        here = _ended_here(beat)
        last, since = self._seen.get(run_id, (b"", 0.0))
        if beat != last:
            last, since = self._seen[run_id] = beat, self._clock()
        if not here and self._clock() - since < self._lease_s:
            return True
        if run_id not in self._lost:
            _log.warning("run %s died: its units are taken over", run_id)
            self._lost.add(run_id)
        return False

    def sweep(self, done: Callable[[str], bool]) -> None:
        """Remove the claims on what is ``done``."""
        claims = find(_claims(self._output), ".json")
        delete_many([uri for uri in claims if done(uri.rsplit("/", 1)[1].split(".")[0])])

    def dead_runs(self) -> list[str]:
        """Runs whose heartbeat stands still; of those on other machines, what was asked for a lease ago as well."""
        beating = [uri.rsplit("/", 1)[1].removesuffix(".json") for uri in find(_alive(self._output), ".json")]
        return [run_id for run_id in beating if not self.alive(run_id)]

    def forget(self, run_id: str) -> None:
        """Remove the heartbeat of a dead run."""
        delete(_alive_uri(self._output, run_id))


def _claims(output: Output) -> str:
    return join(output.uri, "_rtprune", "claims")


def _alive(output: Output) -> str:
    return join(output.uri, "_rtprune", "alive")


def _alive_uri(output: Output, run_id: str) -> str:
    return join(_alive(output), f"{run_id}.json")


def _owner(claim: bytes) -> str | None:
    try:
        return str(json.loads(claim)["run_id"])
    except (ValueError, KeyError, TypeError):
        return None  # damaged: nobody's


def _beat(number: int) -> bytes:
    return json.dumps({"beat": number, "process": _process(os.getpid())}).encode()


def _process(pid: int) -> list[str] | None:
    """What tells a process from all others, on any machine and since any start; ``None`` where there is none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
    return None if facts[0] in "ZX" else [boot, namespace, str(pid), facts[19]]


def _ended_here(beat: bytes) -> bool:
    """Whether a heartbeat's process was one of this machine and is no more: then there is nothing to wait for."""
    try:
        process = json.loads(beat)["process"]
        boot, namespace, pid, _ = process
    except (ValueError, KeyError, TypeError):
        return False
    ours = _process(os.getpid())
    return ours is not None and ours[:2] == [boot, namespace] and _process(int(pid)) != process
