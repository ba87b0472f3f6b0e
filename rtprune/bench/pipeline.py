"""What the line costs beside rendering and writing, and how it scales over workers whose engine takes its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rtprune.corpus.ray_cluster import ray_session, start_local
from rtprune.corpus.run import discover, plan, prepare, read
from rtprune.corpus.values import Progress, never
from rtprune.corpus.worker import Worker
from rtprune.dataset import PageRow
from rtprune.engine import PageResult, Skipping
from rtprune.errors import UsageError
from rtprune.settings import NO_MODEL, RunSettings

DOCUMENT_PAGES = 32
LINES, WORDS = 45, "the harbour master noted wind, tide and cargo of every ship that called"
SCALES = (1, 2, 4)
SCALE_PAGES = 128  # for each worker
SCALE_DPI = 18  # scaling is about the engine's time: rendering, which the workers share cores for, is kept small
SCALE_UNIT_PAGES = 8


class SleepingEngine(Skipping):
    """Takes a fixed time for every page, as a device would that needs no core."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def stream(
        self, pages: Iterable[tuple[Any, object] | None], audited: Callable[[Any], bool]
    ) -> Iterator[tuple[Any, PageResult]]:
        """A result with status "skipped" for every page, after its time."""
        for page in pages:
            if page is not None:
                time.sleep(self._seconds)
                yield page[0], PageResult("skipped")


class SleepingWorker(Worker):
    """A worker with a `SleepingEngine`, whose pace, in seconds, is the model's name."""

    def load(self) -> SleepingEngine:
        """Nothing but its pace."""
        return SleepingEngine(float(self._label))


def bench_pipeline(*, pages: int, workers: int, page_ms: float, repeats: int) -> dict[str, Any]:
    """Measure the whole line, from a folder of PDF documents to Parquet, on a Ray of this machine.

    Args:
        pages: how many are rendered and recorded.
        workers: workers of the line, and processes of the bare loop.
        page_ms: what the sleeping engine takes for a page.
        repeats: measurements of line and bare loop, of which the best counts.

    Returns:
        "line" and "bare": pages a second of the line without a model, and of nothing but rendering and writing in as
        many processes; "share", the first over the second; "scaling", pages a second by number of workers with a
        sleeping engine, and "efficiency" against one worker. Start-up of Ray, processes and imports is left out of all
        of them, and given as "startup_s".
    """
    import ray

    with TemporaryDirectory() as folder:
        source = _write_corpus(Path(folder) / "source", pages)
        settings = RunSettings(model=NO_MODEL, workers=workers)
        bare = max(_bare(source, Path(folder) / f"bare-{each}", workers) for each in range(repeats))
        begin = time.perf_counter()
        start_local(max(workers, *SCALES))
        started = time.perf_counter() - begin
        try:
            lines = [_line(source, f"{folder}/line-{each}", settings) for each in range(repeats)]
            scaling = {}
            for count in SCALES:
                slow = settings.model_copy(update={"workers": count, "dpi": SCALE_DPI, "unit_pages": SCALE_UNIT_PAGES})
                some = _write_corpus(Path(folder) / f"some-{count}", SCALE_PAGES * count)
                scaling[count], _ = _line(some, f"{folder}/scaling-{count}", slow, page_ms)
        finally:
            ray.shutdown()
    line = max(rate for rate, _ in lines)
    return {
        "pages": pages,
        "workers": workers,
        "line": round(line, 2),
        "bare": round(bare, 2),
        "share": round(line / bare, 3),
        "startup_s": round(started + min(seconds for _, seconds in lines), 1),
        "page_ms": page_ms,
        "scaling": {str(count): round(rate, 2) for count, rate in scaling.items()},
        "efficiency": {str(count): round(rate / scaling[1] / count, 3) for count, rate in scaling.items()},
    }


def pdf(first: int, pages: int) -> bytes:
    """A PDF document whose pages, numbered from ``first``, are full of text; no two pages are alike."""
    import pymupdf

    with pymupdf.open() as document:
        for page in range(first, first + pages):
            sheet = document.new_page(width=595, height=842)
            for line in range(LINES):
                sheet.insert_text((60, 80 + 15 * line), f"{page} {line} {WORDS}", fontsize=11)
        return bytes(document.tobytes())


def _write_corpus(folder: Path, pages: int) -> Path:
    """A folder of documents with so many pages together."""
    folder.mkdir()
    for first in range(0, pages, DOCUMENT_PAGES):
        (folder / f"{first:06d}.pdf").write_bytes(pdf(first, min(DOCUMENT_PAGES, pages - first)))
    return folder


def _line(source: Path, output: str, settings: RunSettings, page_ms: float | None = None) -> tuple[float, float]:
    """Pages a second once a quarter is done, when all workers are at work, and seconds before the first page."""
    seen: list[tuple[float, int]] = []

    def note(progress: Progress) -> None:
        if progress.done and progress.stage == "read" and (not seen or progress.done > seen[-1][1]):
            seen.append((time.perf_counter(), progress.done))

    begin = time.perf_counter()
    run = prepare(str(source), output, settings)
    if page_ms is not None:
        run = replace(run, label=str(page_ms / 1000))
    discovered = discover(run)
    with discovered.snapshot, ray_session(None):
        plan(run, discovered)
        read(run, discovered, note, never, None if page_ms is None else SleepingWorker)
    ended, total = seen[-1]
    began, already = next(each for each in seen if each[1] >= total / 4)
    if total == already:
        raise UsageError(
            "so few pages are over before they can be measured", "ask for more --pages, or fewer --workers"
        )
    return (total - already) / (ended - began), seen[0][0] - begin


def _bare(source: Path, folder: Path, processes: int) -> float:
    """Pages a second of nothing but rendering and writing, in as many processes, once they are warm."""
    folder.mkdir()
    documents = sorted(map(str, source.iterdir()))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        shares = [(documents[index::processes], str(folder / str(index))) for index in range(processes)]
        warm_up = [(documents[:1], str(folder / f"warm-{index}")) for index in range(processes)]
        list(pool.map(_render_and_write, warm_up))
        begin = time.perf_counter()
        pages = sum(pool.map(_render_and_write, shares))
        return pages / (time.perf_counter() - begin)


def _render_and_write(share: tuple[list[str], str]) -> int:
    """Pages of these documents in Parquet files of as many rows as a unit has; returns how many."""
    from rtprune.documents import PageImage, open_document, read_object, render_pages

    documents, prefix = share
    settings = RunSettings()
    rows: list[PageRow] = []
    written = 0
    for uri in documents:
        document = open_document(uri, read_object(uri))
        numbers = range(1, document.page_count + 1)
        for page in render_pages(document, numbers, dpi=settings.dpi, max_pixels=settings.max_pixels):
            if isinstance(page, PageImage):
                rows.append(PageRow(document.doc_id, uri, page.page, "skipped", NO_MODEL, render_ms=page.render_ms))
            if len(rows) == settings.unit_pages:
                written += _write(rows, f"{prefix}-{written}.parquet")
                rows.clear()
    return written + (_write(rows, f"{prefix}-{written}.parquet") if rows else 0)


def _write(rows: list[PageRow], path: str) -> int:
    from rtprune.dataset.parquet import parquet_bytes
    from rtprune.dataset.schema import page_table

    Path(path).write_bytes(parquet_bytes(page_table(rows, run_id="bare", config_hash="")))
    return len(rows)


def _workers(count: int | str) -> str:
    return f"{count} {'worker' if str(count) == '1' else 'workers'}"


def report(found: dict[str, Any]) -> str:
    """The measurements in words."""
    scaling = ", ".join(
        f"{_workers(count)} {rate:.1f} pages/s ({found['efficiency'][count]:.0%})"
        for count, rate in found["scaling"].items()
    )
    return "\n".join(
        [
            f"{found['pages']} pages, {_workers(found['workers'])}; start-up, {found['startup_s']:.0f} s, left out",
            f"{'bare loop':<18}{found['bare']:.1f} pages/s, rendered and written",
            f"{'the line':<18}{found['line']:.1f} pages/s, rendered and recorded: {found['share']:.0%} of it",
            f"{'scaling':<18}{scaling}, with an engine that takes {found['page_ms']:g} ms a page",
        ]
    )
