"""Compaction changes where rows lie and nothing else, whoever is at work meanwhile and whatever is killed."""

from __future__ import annotations

import io
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from rtprune.dataset import (
    Output,
    Unit,
    commit_unit,
    compact,
    compact_dataset,
    current_files,
    files,
    read,
    read_pages,
    statistics,
    sweep,
)
from rtprune.dataset.compact import MEGABYTE, target_bytes
from rtprune.dataset.files import CompactedFile, record_compaction
from rtprune.dataset.layout import compaction_of, unit_file
from rtprune.dataset.schema import PAGES
from rtprune.errors import RTPruneError, StoreError, UsageError
from rtprune.store import delete, find, get, join, open_filesystem, put
from tests.conftest import REPOSITORY
from tests.dataset.samples import (
    CONFIG,
    check_exactly_once,
    copied,
    document,
    glob_pages,
    objects_of,
    plan,
    rows_of,
)

#: A unit's file has about 40 kB: two fit, and what comes of them is small no more.
TARGET = 90_000
CORPUS = [document(f"{number}", 3) for number in range(6)]


def fill(output: Output, documents: Iterable[Any] = CORPUS, unit_pages: int = 3) -> None:
    """A dataset, read by two runs, whose rows are too random to shrink."""
    for number, unit in enumerate(plan(output, documents, unit_pages=unit_pages, run_id="r1")):
        commit_fat(output, unit, f"r{number % 2 + 1}")


def commit_fat(output: Output, unit: Unit, run_id: str) -> None:
    letters = random.Random(unit.unit_id)
    rows = [replace(row, text="".join(letters.choices("abcdefghijklmnop", k=20_000))) for row in rows_of(unit)]
    commit_unit(output, unit, rows, run_id)


def page_files(output: Output) -> list[str]:
    """Paths within OUTPUT of what a plain glob sees."""
    return [uri.removeprefix(output.uri + "/") for uri in find(join(output.uri, "pages"))]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Of `filled`, made once."""
    output = Output.open(str(tmp_path_factory.mktemp("filled") / "out"), CONFIG)
    fill(output)
    return objects_of(output)


@pytest.fixture
def filled(objects: dict[str, bytes], output_uri: str) -> Output:
    return copied(objects, output_uri)


def in_order(table: pa.Table) -> pa.Table:
    return table.select(PAGES.names).sort_by([("doc_id", "ascending"), ("page", "ascending")]).combine_chunks()


def pages(output: Output) -> list[tuple[str, int, str]]:
    rows = read_pages(output, ["doc_id", "page", "text"]).to_pylist()
    return sorted((row["doc_id"], row["page"], row["text"]) for row in rows)


def contents(output: Output) -> list[tuple[str, bytes]]:
    return [(uri, get(uri)) for uri in find(output.uri)]


def test_small_files_become_few_and_their_rows_stay_as_they_were(filled: Output) -> None:
    before, counted = in_order(read_pages(filled)), statistics(filled)
    done = compact_dataset(filled, target=TARGET)
    assert (done.files, done.replaced, done.made, done.swept) == (6, 6, 3, 0)
    assert in_order(read_pages(filled)).equals(before)
    assert set(before.column("run_id").to_pylist()) == {"r1", "r2"}
    assert statistics(filled) == counted
    check_exactly_once(filled, CORPUS)
    current = current_files(filled).files
    assert [file.file for file in current] == page_files(filled)
    assert [compaction_of(file.file) for file in current] == [1, 2, 3]
    assert all(isinstance(file, CompactedFile) and len(file.units) == 2 for file in current)
    assert done.bytes_after == sum(file.bytes for file in current) <= 3 * TARGET


def test_a_plain_reader_sees_the_compacted_rows(filled: Output) -> None:
    compact_dataset(filled, target=TARGET)
    filesystem, root = open_filesystem(filled.uri)
    plain = pads.dataset(f"{root}/pages", filesystem=filesystem, format="parquet", schema=PAGES).to_table()
    assert in_order(plain).equals(in_order(read_pages(filled)))


def test_compacting_again_writes_nothing(filled: Output) -> None:
    compact_dataset(filled, target=TARGET)
    before = contents(filled)
    again = compact_dataset(filled, target=TARGET)
    assert not again.changed
    assert again.files == 3
    assert sweep(filled) == 0
    assert contents(filled) == before


def test_only_files_below_half_the_target_are_gathered_and_one_alone_stays(filled: Output) -> None:
    assert not compact_dataset(filled, target=70_000).changed
    (lone,) = plan(filled, [document("lone", 1)], unit_pages=3, run_id="r3")
    commit_fat(filled, lone, "r3")
    assert not compact_dataset(filled, target=70_000).changed
    done = compact_dataset(filled, target=10 * TARGET)
    assert (done.files, done.replaced, done.made) == (7, 7, 1)


def test_what_a_later_run_adds_joins_the_last_file_that_is_still_small(filled: Output) -> None:
    compact_dataset(filled, target=10 * TARGET)
    later = [document("later", 3), document("last", 3)]
    fill(filled, later)
    done = compact_dataset(filled, target=10 * TARGET)
    assert (done.files, done.replaced, done.made) == (3, 3, 1)
    check_exactly_once(filled, CORPUS + later)


def test_a_compacted_file_is_written_like_all_others(output: Output) -> None:
    units = plan(output, [document("a", 10_000), document("b", 10_000)], unit_pages=10_000, run_id="r1")
    for unit in units:
        commit_unit(output, unit, rows_of(unit), "r1")
    (old,) = page_files(output)[:1]
    written = pq.ParquetFile(io.BytesIO(get(join(output.uri, old))))
    compact_dataset(output)
    (new,) = page_files(output)
    read = pq.ParquetFile(io.BytesIO(get(join(output.uri, new))))
    one, other = (dict(file.schema_arrow.metadata) for file in (read, written))
    assert {one.pop(b"rtprune.units"), other.pop(b"rtprune.units")} == {
        " ".join(sorted(unit.unit_id for unit in units)).encode(),
        min(unit.unit_id for unit in units).encode(),
    }
    assert one == other
    assert read.schema_arrow.equals(written.schema_arrow)
    assert [read.metadata.row_group(number).num_rows for number in range(2)] == [16_384, 3_616]
    for column in range(read.metadata.num_columns):
        one, other = read.metadata.row_group(0).column(column), written.metadata.row_group(0).column(column)
        assert (one.compression, one.is_stats_set, one.has_column_index, one.has_dictionary_page) == (
            *(other.compression, other.is_stats_set, other.has_column_index, other.has_dictionary_page),
        )


@pytest.mark.parametrize("megabytes", [0, -1, 100_000])
def test_a_target_that_makes_no_sense_is_refused(megabytes: int) -> None:
    with pytest.raises(UsageError, match=f"to {megabytes} MB"):
        target_bytes(megabytes)


def test_the_target_is_given_in_megabytes() -> None:
    assert (target_bytes(64), target_bytes(None)) == (64 * MEGABYTE, 128 * MEGABYTE)


class Killed(BaseException):
    """No code may catch this; whoever raises it does nothing any more."""


@contextmanager
def at_every_operation(then: Callable[[int], None]) -> Iterator[None]:
    """Call ``then`` with a number from 1 before every operation on the store; not for what it does itself there."""
    lock, number, inside = threading.Lock(), 0, False

    def watched(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal number, inside
            if not inside:
                with lock:
                    number, inside = number + 1, True
                    try:
                        then(number)
                    finally:
                        inside = False
            return operation(*arguments)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module in (files, compact):
            for name in ("put", "create_if_absent", "get", "get_many", "find", "listing", "delete", "delete_many"):
                if hasattr(module, name):
                    patch.setattr(module, name, watched(getattr(module, name)))
        yield


def survives(output: Output, kill: int) -> bool:
    """Whether a compaction is over before it is killed at its operation ``kill`` on the store."""

    def then(number: int) -> None:
        if number == kill:
            raise Killed

    try:
        with at_every_operation(then):
            compact_dataset(output, target=TARGET)
    except Killed:
        return False
    return True


def test_readers_see_every_page_once_at_every_moment(filled: Output) -> None:
    before = pages(filled)
    moments: list[int] = []

    def look(number: int) -> None:
        assert pages(filled) == before
        assert {row[:2] for row in before} == set(glob_pages(filled))
        moments.append(number)

    with at_every_operation(look):
        assert compact_dataset(filled, target=TARGET).made == 3
    assert len(moments) > 15


@pytest.mark.parametrize("output_uri", ["local", pytest.param("store", marks=pytest.mark.slow)], indirect=True)
def test_killed_at_any_operation_nothing_changes_and_the_next_one_ends_it(output_uri: str) -> None:
    moments = random.Random(3)
    corpus = CORPUS[:4]
    first = Output.open(f"{output_uri}-0", CONFIG)
    fill(first, corpus)
    objects, before = objects_of(first), pages(first)
    over, kill = False, 0
    while not over:
        kill += 1
        output = copied(objects, f"{output_uri}-{kill}")
        over = survives(output, kill)
        assert pages(output) == before
        if moments.random() < 0.5:  # whoever ends it may be killed as well
            survives(output, moments.randrange(1, 20))
            assert pages(output) == before
        if moments.random() < 0.5:
            sweep(output)
            check_exactly_once(output, corpus)
        compact_dataset(output, target=TARGET)
        assert pages(output) == before
        check_exactly_once(output, corpus)
        assert len(page_files(output)) == 2
        assert sweep(output) == 0
    assert kill > 12


def test_a_sweep_after_a_kill_before_the_record_removes_the_new_file(filled: Output) -> None:
    def killed(*given: object) -> bool:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compact, "record_compaction", killed)
        with pytest.raises(Killed):
            compact_dataset(filled, target=TARGET)
    assert Counter(glob_pages(filled)).most_common(1)[0][1] == 2
    assert sweep(filled) == 1
    check_exactly_once(filled, CORPUS)
    assert compact_dataset(filled, target=TARGET).made == 3
    check_exactly_once(filled, CORPUS)


def before_records(patch: pytest.MonkeyPatch, then: Callable[[], object], times: int = 1) -> None:
    """Do ``then`` between a compaction's put and its record, ``times`` times."""
    left = [None] * times

    def recorded(output: Output, number: int, file: CompactedFile | None) -> bool:
        if left:
            left.pop()
            then()
        return record_compaction(output, number, file)

    patch.setattr(compact, "record_compaction", recorded)


def test_a_sweep_between_put_and_record_costs_a_compaction_another_put_only(
    filled: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pages(filled)
    before_records(monkeypatch, lambda: sweep(filled), times=3)
    assert compact_dataset(filled, target=TARGET).made == 3
    assert pages(filled) == before
    check_exactly_once(filled, CORPUS)
    assert len(current_files(filled).records) == 6
    assert len(page_files(filled)) == 3


def test_a_compaction_whose_files_another_one_replaced_drops_its_own(
    filled: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pages(filled)
    before_records(monkeypatch, lambda: compact_dataset(filled, target=10 * TARGET))
    done = compact_dataset(filled, target=TARGET)
    assert done.made == 0
    assert pages(filled) == before
    check_exactly_once(filled, CORPUS)
    assert len(page_files(filled)) == 1


def test_a_record_whose_answer_was_lost_counts(filled: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(output: Output, number: int, file: CompactedFile | None) -> bool:
        record_compaction(output, number, file)
        return False

    monkeypatch.setattr(compact, "record_compaction", lost)
    assert compact_dataset(filled, target=TARGET).made == 3
    check_exactly_once(filled, CORPUS)


def test_compactions_that_race_end_with_every_page_once(filled: Output) -> None:
    before = pages(filled)
    start = threading.Barrier(4)

    def race(racer: int) -> None:
        start.wait()
        if racer == 3:
            sweep(filled)
        else:
            compact_dataset(filled, target=TARGET)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(race, range(4)))
    assert pages(filled) == before
    assert not compact_dataset(filled, target=TARGET).made
    check_exactly_once(filled, CORPUS)


def test_units_committed_meanwhile_stay_and_are_gathered_later(output: Output) -> None:
    documents = [document(f"{number:02d}", 3) for number in range(16)]
    units = plan(output, documents, unit_pages=3, run_id="r1")
    over = threading.Event()

    def work() -> None:
        for unit in units:
            commit_fat(output, unit, "r1")
            commit_fat(output, unit, "r2")  # a second worker that comes too late, perhaps after a compaction
        over.set()

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        while not over.is_set() and not working.done():
            compact_dataset(output, target=TARGET)
            seen = [row[:2] for row in pages(output)]
            assert len(seen) == len(set(seen))
        working.result()
    compact_dataset(output, target=TARGET)
    check_exactly_once(output, documents)
    assert len(page_files(output)) == 8


def test_a_file_list_made_while_units_are_committed_and_compacted_is_never_called_damaged(output: Output) -> None:
    units = plan(output, [document(f"{n}", 3) for n in range(8)], unit_pages=3, run_id="r1")
    commit_fat(output, units[0], "r1")

    def go_on(number: int) -> None:
        commit_fat(output, units[number % len(units)], "r1")
        compact_dataset(output, target=10 * TARGET)
        sweep(output)

    with at_every_operation(go_on):
        assert current_files(output).by_unit


@pytest.mark.parametrize("reading", [pages, statistics])
def test_a_reader_whose_files_are_replaced_before_it_opens_them_begins_again(
    filled: Output, reading: Callable[[Output], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = reading(filled)
    opening = read._scanner
    targets = [TARGET, 10 * TARGET]

    def late(*given: Any) -> Any:
        if targets:
            compact_dataset(filled, target=targets.pop(0))
        return opening(*given)

    monkeypatch.setattr(read, "_scanner", late)
    assert reading(filled) == before
    assert not targets


def test_a_reader_whose_files_are_replaced_while_it_reads_counts_nothing_twice(
    filled: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = statistics(filled)
    opening, done = read._scanner, []

    class Interrupted:
        def __init__(self, scanner: Any) -> None:
            self.scanner = scanner

        def to_batches(self) -> Iterator[Any]:
            for batch in self.scanner.to_batches():
                yield batch
                if not done:
                    done.append(compact_dataset(filled, target=TARGET))
                    raise FileNotFoundError("replaced")

    monkeypatch.setattr(read, "_scanner", lambda *given: Interrupted(opening(*given)))
    assert statistics(filled) == before
    assert done[0].made == 3


def test_a_reader_that_is_never_fast_enough_says_so(filled: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(range(1000))
    monkeypatch.setattr(read, "_files", lambda output: [f"pages/00/{next(names)}.parquet"])
    with pytest.raises(StoreError, match="faster than they could be read"):
        read_pages(filled)


def test_damaged_input_is_named_and_nothing_replaced(filled: Output) -> None:
    bad = page_files(filled)[0]
    data = bytearray(get(join(filled.uri, bad)))
    data[len(data) // 2] ^= 1
    put(join(filled.uri, bad), bytes(data))
    before = contents(filled)
    with pytest.raises(RTPruneError, match=rf"{bad} is damaged: its checksum"):
        compact_dataset(filled, target=10 * TARGET)
    assert contents(filled) == before


def test_missing_input_is_named_and_nothing_replaced(filled: Output) -> None:
    compact_dataset(filled, target=TARGET)
    bad = page_files(filled)[0]
    delete(join(filled.uri, bad))
    before = contents(filled)
    with pytest.raises(RTPruneError, match=rf"lacks a file.*{bad}"):
        compact_dataset(filled, target=10 * TARGET)
    assert contents(filled) == before


def test_files_whose_records_are_lost_are_not_deleted(filled: Output) -> None:
    compact_dataset(filled, target=TARGET)
    kept = {uri: get(uri) for uri in files.record_uris(filled)}
    for uri in kept:
        delete(uri)
    assert sweep(filled) == 0
    with pytest.raises(RTPruneError, match=r"no record .* names .*restore .*/000001\.json"):
        compact_dataset(filled, target=TARGET)
    for uri, data in kept.items():
        assert uri not in files.record_uris(filled)
        put(uri, data)
    check_exactly_once(filled, CORPUS)


def change(content: dict[str, Any], case: str) -> None:
    file = content["file"]
    match case:
        case "leads outside":
            file["file"] = "pages/../../secret.parquet"
        case "is another number's":
            file["file"] = file["file"].replace("000001-", "000002-")
        case "is a unit's":
            file["file"] = unit_file(file["units"][0])
        case "holds nothing":
            file["units"] = []
        case "holds no units":
            file["units"][0] = "../x"
        case "lacks a field":
            del file["rows"]
        case "has words for numbers":
            file["bytes"] = "many"


@pytest.mark.parametrize(
    "case",
    [
        *("leads outside", "is another number's", "is a unit's", "holds nothing"),
        *("holds no units", "lacks a field", "has words for numbers"),
    ],
)
def test_a_record_that_cannot_be_true_is_named(filled: Output, case: str) -> None:
    compact_dataset(filled, target=TARGET)
    uri = filled.compaction_uri(1)
    content = json.loads(get(uri))
    change(content, case)
    put(uri, json.dumps(content).encode())
    with pytest.raises(RTPruneError, match=r"000001\.json is damaged"):
        read_pages(filled)


def test_a_record_that_takes_half_a_file_is_named(filled: Output) -> None:
    compact_dataset(filled, target=TARGET)
    first = current_files(filled).records[0]
    assert first is not None
    half = replace(first, file=first.file.replace("000001-", "000004-"), units=first.units[:1])
    record_compaction(filled, 4, half)
    with pytest.raises(RTPruneError, match=r"000004\.json is damaged"):
        read_pages(filled)


def test_a_record_that_is_missing_is_named(filled: Output) -> None:
    compact_dataset(filled, target=TARGET)
    delete(filled.compaction_uri(2))
    with pytest.raises(RTPruneError, match=r"000002\.json is missing"):
        read_pages(filled)


@pytest.mark.parametrize("output_uri", ["local", pytest.param("store", marks=pytest.mark.slow)], indirect=True)
def test_a_process_killed_at_any_moment_leaves_every_page_once(output: Output) -> None:
    documents = [document(f"{number:03d}", 3) for number in range(40)]
    fill(output, documents)
    before = pages(output)
    moments = random.Random(5)
    codes = []
    for longest in (0.02, 0.1, 0.2, 0.3, 0.4):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.dataset.compact_loop", output.uri, str(TARGET)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.stdin.write(b"go\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"begun\n"
        time.sleep(moments.uniform(0, longest))
        process.kill()
        codes.append(process.wait())
        process.stdin.close()
        process.stdout.close()
        assert pages(output) == before
    assert codes[0] == -signal.SIGKILL, "there was too little work to be killed at"
    compact_dataset(output, target=TARGET)
    assert pages(output) == before
    check_exactly_once(output, documents)
    assert not compact_dataset(output, target=TARGET).changed
