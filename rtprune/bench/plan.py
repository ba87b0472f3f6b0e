"""What it costs the driver to plan a corpus of many objects, and to find out later that nothing is left to do."""

from __future__ import annotations

import hashlib
import resource
import time
from dataclasses import asdict, dataclass
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rtprune.corpus.run import discover, prepare
from rtprune.dataset import DocumentRow
from rtprune.settings import NO_MODEL, RunSettings

INVENTORY_OBJECTS = 10_000  # written at a time


@dataclass(frozen=True)
class PlanCost:
    """Seconds of processor time of each stage, and memory.

    Attributes:
        discover_s: reading the inventory and holding it against an empty OUTPUT.
        plan_s: planning all objects, looking into them left out.
        resume_s: a second run's reading of inventory and plan, which finds nothing new.
        peak_mib: most memory the process has had.
        before_mib: what it had before, Python and libraries.
        bytes_per_object: growth of memory over ``before_mib``, for each object.
    """

    objects: int
    discover_s: float
    plan_s: float
    resume_s: float
    peak_mib: int
    before_mib: int
    bytes_per_object: int


def bench_plan(objects: int) -> dict[str, Any]:
    """Measure with a synthetic inventory of ``objects`` documents of three pages, in a temporary folder.

    Returns:
        `PlanCost` as plain values ready for JSON.
    """
    with TemporaryDirectory() as folder:
        source, output = f"{folder}/inventory.parquet", f"{folder}/out"
        _write_inventory(source, objects)
        settings = RunSettings(model=NO_MODEL)
        before = _peak_mib()
        begin = time.process_time()
        run = prepare(source, output, settings)
        discovered = discover(run)
        found_s = time.process_time()
        with discovered.snapshot as snapshot:
            for some in snapshot.new_objects():
                rows = [DocumentRow(uri, version, size, "ok", _sha256(uri), "pdf", 3) for uri, size, version in some]
                snapshot.append(rows, unit_pages=settings.unit_pages, run_id=run.run_id)
        planned_s = time.process_time()
        again = discover(prepare(source, output, settings))
        resumed_s = time.process_time()
        with again.snapshot:
            assert not again.new
            assert int(again.snapshot.pending(()).pages.sum()) == 3 * objects
        peak = _peak_mib()
    growth = (peak - before) * 2**20 // objects
    cost = PlanCost(objects, found_s - begin, planned_s - found_s, resumed_s - planned_s, peak, before, growth)
    return {name: round(value, 2) for name, value in asdict(cost).items()}


def _write_inventory(path: str, objects: int) -> None:
    with pq.ParquetWriter(path, pa.schema([("uri", pa.string()), ("size", pa.int64()), ("etag", pa.string())])) as file:
        for start in range(0, objects, INVENTORY_OBJECTS):
            numbers = range(start, min(start + INVENTORY_OBJECTS, objects))
            uris = [f"s3://corpus/inbox/{number // 1000:06d}/document-{number:09d}.pdf" for number in numbers]
            etags = [hashlib.md5(uri.encode(), usedforsecurity=False).hexdigest() for uri in uris]
            file.write_table(pa.table({"uri": uris, "size": [100_000] * len(uris), "etag": etags}))


def _sha256(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()


def _peak_mib() -> int:
    """Most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def report(found: dict[str, Any]) -> str:
    """The measurements in words."""
    return "\n".join(
        [
            f"{found['objects']:,} objects; seconds of one core",
            f"{'discover':<18}{found['discover_s']:.1f} s: inventory against an empty OUTPUT",
            f"{'plan':<18}{found['plan_s']:.1f} s: units and documents written, looking into objects left out",
            f"{'resume':<18}{found['resume_s']:.1f} s: inventory against the plan, nothing new",
            f"{'memory':<18}{found['peak_mib']} MiB at most, {found['before_mib']} of them before: "
            f"{found['bytes_per_object']} bytes an object",
        ]
    )
