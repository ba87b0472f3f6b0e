"""What a store's latency costs the line: documents looked into and read through a relay that brings calls late."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from rtprune.bench.pipeline import pdf
from rtprune.corpus.ray_cluster import ray_session, start_local
from rtprune.corpus.run import discover, plan, prepare, read
from rtprune.corpus.values import OnProgress, Progress
from rtprune.errors import UsageError
from rtprune.settings import NO_MODEL, RunSettings
from rtprune.store import is_remote, join, put

DOCUMENT_PAGES = 2
CHUNK_BYTES = 2**16


class Relay:
    """Carries bytes to a server on ``host`` and ``port``; what the client sends comes ``delay_s`` late."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.delay_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._carry, "127.0.0.1", 0, limit=CHUNK_BYTES), self._loop
        ).result()
        self.endpoint = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """Carry nothing more."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):  # the relay is closed
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            await asyncio.gather(
                self._copy(reader, server_writer, late=True), self._copy(server_reader, writer, late=False)
            )

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, late: bool) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while (chunk := await queue.get())[1]:
                await asyncio.sleep(max(0.0, chunk[0] - self._loop.time()))
                sink.write(chunk[1])
            sink.close()

        delivery = asyncio.ensure_future(deliver())
        try:
            while data := await source.read(CHUNK_BYTES):
                queue.put_nowait((self._loop.time() + (self.delay_s if late else 0.0), data))
        except ConnectionError:  # whoever closed it wants no more
            pass
        queue.put_nowait((0.0, b""))
        await delivery


def bench_latency(*, store: str, documents: int, workers: int, delay_ms: float) -> dict[str, Any]:
    """Run over small documents in ``store`` twice, the second time with every call ``delay_ms`` later.

    Args:
        store: ``s3://`` prefix on an endpoint (``AWS_ENDPOINT_URL``) without TLS; written to, and left for the user.

    Returns:
        "inspect" and "read": documents and pages a second, at 0 and at ``delay_ms``; "kept", the second over the first.

    Raises:
        UsageError: ``store`` is no such prefix.
    """
    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL", ""))
    if not is_remote(store) or endpoint.scheme != "http" or endpoint.hostname is None:
        raise UsageError(
            "latency is measured in an object store without TLS",
            "set AWS_ENDPOINT_URL=http://..., and --store s3://...",
        )
    home = join(store, f"bench-{os.getpid()}-{time.time_ns()}")
    for number in range(documents):
        put(join(home, "in", f"{number:06d}.pdf"), pdf(number * DOCUMENT_PAGES, DOCUMENT_PAGES))
    relay = Relay(endpoint.hostname, endpoint.port or 80)
    rates: dict[str, dict[str, float]] = {"inspect": {}, "read": {}}
    with _endpoint(relay.endpoint):
        start_local(workers)
        try:
            for name, delay in (("warm-up", 0.0), ("0", 0.0), (f"{delay_ms:g}", delay_ms)):
                relay.delay_s = delay / 1000
                some = _rates(join(home, "in"), join(home, f"out-{name}"), workers)
                if name != "warm-up":
                    for stage, rate in some.items():
                        rates[stage][name] = round(rate, 1)
        finally:
            import ray

            ray.shutdown()
            relay.close()
    kept = {stage: round(rate[f"{delay_ms:g}"] / rate["0"], 3) for stage, rate in rates.items()}
    return {"documents": documents, "workers": workers, "delay_ms": delay_ms, **rates, "kept": kept}


@contextmanager
def _endpoint(url: str) -> Iterator[None]:
    before = os.environ["AWS_ENDPOINT_URL"]
    os.environ["AWS_ENDPOINT_URL"] = url
    try:
        yield
    finally:
        os.environ["AWS_ENDPOINT_URL"] = before


def _rates(source: str, output: str, workers: int) -> dict[str, float]:
    """Documents looked into and pages read a second, from the first to the last of each."""
    times: dict[str, list[tuple[float, int]]] = {"inspect": [], "read": []}

    def note(progress: Progress) -> None:
        seen = times[progress.stage]
        if progress.done and (not seen or progress.done > seen[-1][1]):
            seen.append((time.perf_counter(), progress.done))

    run = prepare(source, output, RunSettings(model=NO_MODEL, workers=workers, unit_pages=16))
    discovered = discover(run)
    heard: OnProgress = note
    with discovered.snapshot, ray_session(None):
        plan(run, discovered, heard)
        read(run, discovered, heard)
    rates = {}
    for stage, seen in times.items():
        if len(seen) < 2:
            raise UsageError("so few documents are over before they can be measured", "ask for more --documents")
        rates[stage] = (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])
    return rates


def report(measured: dict[str, Any]) -> str:
    """The measurement in words."""
    late = f"{measured['delay_ms']:g}"
    lines = [f"{measured['documents']} documents of {DOCUMENT_PAGES} pages in a store, {measured['workers']} workers"]
    for stage, what in (("inspect", "documents looked into"), ("read", "pages read")):
        rate = measured[stage]
        lines.append(
            f"{what:<24}{rate['0']:.1f} a second, and {rate[late]:.1f} with every call {late} ms later: "
            f"{measured['kept'][stage]:.0%}"
        )
    return "\n".join(lines)
