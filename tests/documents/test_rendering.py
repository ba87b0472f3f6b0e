"""Pages come from processes apart: all of them, once, whatever happens to the processes."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rtprune.documents import (
    PageFault,
    PageImage,
    PageRange,
    Renderers,
    Rendering,
    document_cache,
    open_document,
    read_object,
    render_pages,
    rendering,
)
from rtprune.errors import StoreError, UsageError
from tests.processes import descendants, started, wait_until

MakePdf = Callable[..., bytes]

#: Found by the renderer's Python when it starts; pages misbehave as their text says.
MISBEHAVIOUR = """
import os, sys, time
from rtprune.documents import pages
attempt = pages._attempt
def misbehave(render, page):
    found = attempt(render, page)
    text = getattr(found, "text_layer", "")
    if "hang" in text:
        time.sleep(600)
    if "die" in text:
        if "once" not in text or not os.path.exists(once):
            open(once, "w").close()
            os.kill(os.getpid(), 9)
    if "print" in text:
        print("a library prints this", flush=True)
        os.write(1, b"and this")
    return found
pages._attempt = misbehave
once = {once!r}
open_pdf = pages.open_pdf
def refuse(data, password, uri):
    if "opening-hangs" in uri:
        time.sleep(600)
    if "opening-dies" in uri:
        os.kill(os.getpid(), 9)
    return open_pdf(data, password, uri)
pages.open_pdf = refuse
"""


@pytest.fixture
def misbehaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "sitecustomize.py").write_text(MISBEHAVIOUR.replace("{once!r}", repr(str(tmp_path / "died"))))
    monkeypatch.syspath_prepend(tmp_path / "bad")


@contextmanager
def renderers(processes: int = 1, **options: object) -> Iterator[Renderers]:
    made = Renderers(processes, **{"dpi": 72, "max_pixels": 10**6, **options})  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()


def stored(path: Path, data: bytes, first: int = 1, last: int = 1) -> PageRange:
    path.write_bytes(data)
    return PageRange(str(path), hashlib.sha256(data).hexdigest(), first, last)


def taken(pages: Rendering) -> dict[tuple[int, int], PageImage | PageFault]:
    found = [each for each in pages if each is not None]
    by_number = {(index, page.page): page for index, page in found}
    assert len(by_number) == len(found)
    return by_number


def faults(found: dict[tuple[int, int], PageImage | PageFault]) -> dict[tuple[int, int], str]:
    return {number: page.reason for number, page in found.items() if isinstance(page, PageFault)}


@pytest.mark.parametrize("processes", [1, 3])
def test_pages_are_those_that_are_rendered_here(make_pdf: MakePdf, tmp_path: Path, processes: int) -> None:
    data = make_pdf(*(f"page {number}" for number in range(1, 21)))
    ranges = [
        stored(tmp_path / "a", data, 1, 20),
        stored(tmp_path / "b", data, 3, 3),
        stored(tmp_path / "c", data, 19, 22),
    ]
    with renderers(processes) as made:
        found = taken(made.rendering(ranges))
    assert sorted(found) == [*((0, page) for page in range(1, 21)), (1, 3), *((2, page) for page in range(19, 23))]
    here = {page.page: page for page in render_pages(open_document("name", data), range(1, 21), 72, 10**6)}
    for (_, number), page in found.items():
        if isinstance(page, PageImage):
            wanted = here[number]
            assert isinstance(wanted, PageImage)
            assert page.picture.tobytes() == wanted.picture.tobytes()
            assert (page.scale, page.text_layer) == (wanted.scale, f"page {number}\n")
    assert faults(found) == {(2, 21): "no-such-page", (2, 22): "no-such-page"}


def test_pages_without_pixels_tell_all_the_rest(make_pdf: MakePdf, tmp_path: Path) -> None:
    pages = [stored(tmp_path / "a", make_pdf("one", "two"), 1, 3)]
    with renderers() as made, renderers(pixels=False) as sparing:
        whole, found = taken(made.rendering(pages)), taken(sparing.rendering(pages))
    assert faults(found) == faults(whole) == {(0, 3): "no-such-page"}
    for name in ((0, 1), (0, 2)):
        here, there = whole[name], found[name]
        assert isinstance(here, PageImage)
        assert isinstance(there, PageImage)
        facts = [(page.width, page.height, page.scale, page.text_layer) for page in (here, there)]
        assert facts[0] == facts[1]
        assert (len(here.raster.data), len(there.raster.data)) == (3 * here.width * here.height, 0)


def test_a_page_that_hangs_costs_itself_alone(make_pdf: MakePdf, tmp_path: Path, misbehaving: None) -> None:
    pages = [stored(tmp_path / "a.pdf", make_pdf("one", "hang", "three", "hang", "five"), 1, 5)]
    with renderers(page_timeout_s=3) as made:
        found = taken(made.rendering(pages))
    assert faults(found) == {(0, 2): "timeout", (0, 4): "timeout"}
    assert len(found) == 5
    assert "rendering this page took longer than 3 s" in getattr(found[0, 2], "message", "")


def test_a_page_that_kills_its_renderer_costs_itself_alone(
    make_pdf: MakePdf, tmp_path: Path, misbehaving: None
) -> None:
    pages = [stored(tmp_path / "a.pdf", make_pdf("one", "die", "three", "print"), 1, 4)]
    with renderers() as made:
        found = taken(made.rendering(pages))
    assert faults(found) == {(0, 2): "renderer-died"}
    assert len(found) == 4


def test_a_renderer_that_dies_once_costs_nothing(make_pdf: MakePdf, tmp_path: Path, misbehaving: None) -> None:
    pages = [stored(tmp_path / "a.pdf", make_pdf("one", "die once", "three"), 1, 3)]
    with renderers() as made:
        found = taken(made.rendering(pages))
    assert not faults(found)
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize(("name", "kind"), [("opening-hangs", "timeout"), ("opening-dies", "renderer-died")])
def test_a_document_that_cannot_be_opened_costs_its_own_pages(
    make_pdf: MakePdf, tmp_path: Path, misbehaving: None, name: str, kind: str
) -> None:
    good, bad = make_pdf("good"), make_pdf("bad", "worse")
    ranges = [stored(tmp_path / "a", good), stored(tmp_path / name, bad, 1, 2), stored(tmp_path / "b", good)]
    with renderers(page_timeout_s=3) as made:
        found = taken(made.rendering(ranges))
    assert faults(found) == {(1, 1): kind, (1, 2): kind}
    assert len(found) == 4


def test_documents_that_changed_or_vanished_are_faults(make_pdf: MakePdf, tmp_path: Path) -> None:
    changed, gone = stored(tmp_path / "a", make_pdf("one")), stored(tmp_path / "b", make_pdf("two"))
    (tmp_path / "a").write_bytes(make_pdf("other"))
    (tmp_path / "b").unlink()
    with renderers() as made:
        assert faults(taken(made.rendering([changed, gone]))) == {(0, 1): "changed", (1, 1): "unreadable"}


def test_a_missing_password_and_a_store_that_is_away_are_raised(
    make_pdf: MakePdf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = stored(tmp_path / "a", make_pdf("one", user_pw="sesame", encryption=4))
    with renderers() as made, pytest.raises(UsageError, match="opened with another password"):
        taken(made.rendering([locked]))
    with renderers(password="sesame") as made:
        assert not faults(taken(made.rendering([locked])))

    def away(uri: str) -> bytes:
        raise StoreError("the store is away", "wait")

    monkeypatch.setattr(document_cache, "read_object", away)
    with renderers() as made, pytest.raises(StoreError, match="the store is away"):
        taken(made.rendering([PageRange("s3://bucket/away", "0" * 64, 1, 1)]))


def test_pages_wait_for_their_reader_in_bounded_memory(
    make_pdf: MakePdf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_pdf(*map(str, range(30)))
    page = 3 * 300 * 200
    monkeypatch.setattr(rendering, "AHEAD_BYTES", 5 * page)
    with renderers() as made:
        pages = made.rendering([stored(tmp_path / "a", data, 1, 30)])
        wait_until(lambda: len(pages._ready) >= 5, "as many pages as may wait")
        time.sleep(0.3)
        assert 5 * page <= pages._held <= 7 * page
        assert len(taken(pages)) == 30


def test_a_rendering_that_nobody_reads_yet_holds_up_no_other(
    make_pdf: MakePdf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "AHEAD_BYTES", 1)
    pages = stored(tmp_path / "a", make_pdf(*map(str, range(30))), 1, 30)
    with renderers() as made:
        unread = made.rendering([pages])
        wait_until(lambda: bool(unread._ready), "its first page")
        assert len(taken(made.rendering([pages]))) == 30
        assert len(taken(unread)) == 30


def test_a_document_that_is_slow_to_come_holds_up_no_other(
    make_pdf: MakePdf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = stored(tmp_path / "slow", make_pdf("one")), stored(tmp_path / "b", make_pdf("two"))
    sent = threading.Event()

    def read(uri: str) -> bytes:
        assert uri == quick.uri or sent.wait(60)
        return read_object(uri)

    monkeypatch.setattr(document_cache, "read_object", read)
    with renderers() as made:
        pages = (page for page in made.rendering([slow, quick]) if page is not None)
        assert next(pages)[0] == 1
        sent.set()
        assert next(pages)[0] == 0


def test_a_document_is_fetched_once_for_all_its_windows_and_renderings(
    make_pdf: MakePdf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = []

    def read(uri: str) -> bytes:
        uris.append(uri)
        return read_object(uri)

    monkeypatch.setattr(document_cache, "read_object", read)
    first, second = stored(tmp_path / "a", make_pdf(*"abc" * 10), 1, 30), stored(tmp_path / "b", make_pdf("one"))
    with renderers(2) as made:
        begun = [made.rendering([first, second, first]), made.rendering([first])]
        assert [len(taken(each)) for each in begun] == [61, 30]
        assert len(taken(made.rendering([second]))) == 1
    assert sorted(uris) == [first.uri, second.uri]


def test_pages_come_from_a_copy_where_the_object_is_gone_or_changed(make_pdf: MakePdf, tmp_path: Path) -> None:
    data = make_pdf("one")
    gone, changed, here = (stored(tmp_path / name, data) for name in ("gone", "changed", "here"))
    Path(gone.uri).unlink()
    Path(changed.uri).write_bytes(make_pdf("other"))
    copies = (changed.uri, gone.uri, here.uri)
    with renderers() as made:
        pages = made.rendering([replace(each, copies=copies) for each in (gone, changed, here)])
        assert not faults(taken(pages))
        assert [pages.source(index) for index in range(3)] == [here.uri] * 3


def test_a_renderer_reads_a_document_without_a_header_by_the_name_it_was_planned_with(
    make_pdf: MakePdf, tmp_path: Path
) -> None:
    data = make_pdf("one").split(b"\n", 1)[1]
    gone, copy = stored(tmp_path / "gone.pdf", data), stored(tmp_path / "copy", data)
    Path(gone.uri).unlink()
    with renderers() as made:
        assert not faults(taken(made.rendering([replace(gone, copies=(copy.uri,))])))


def test_nothing_is_left_when_renderers_are_closed(make_pdf: MakePdf, tmp_path: Path) -> None:
    pages = stored(tmp_path / "a", make_pdf(*map(str, range(30))), 1, 30)

    def counts() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = counts()
    with renderers(2) as made:
        assert len(taken(made.rendering([pages]))) == 30
        unread = made.rendering([pages])
        assert next(page for page in unread if page is not None)
    wait_until(lambda: counts() <= before, f"descriptors and threads to end: {before}")


def test_a_rendering_nobody_wants_makes_way_for_the_next(make_pdf: MakePdf, tmp_path: Path) -> None:
    data = make_pdf(*map(str, range(40)))
    with renderers() as made:
        first = made.rendering([stored(tmp_path / "a", data, 1, 40)])
        assert next(found for found in first if found is not None)
        second = made.rendering([stored(tmp_path / "b", data, 1, 2)])
        first.cancel()
        assert len(taken(second)) == 2
        assert not list(first)


def test_no_process_is_left_when_renderers_are_closed(make_pdf: MakePdf, tmp_path: Path, misbehaving: None) -> None:
    before = descendants(os.getpid()).keys()  # other tests may have left some

    def alive() -> list[str]:
        started = {pid: line for pid, line in descendants(os.getpid()).items() if pid not in before}
        return [line for line in started.values() if "rtprune.documents.renderer" in line]

    with renderers(2) as made:
        pages = made.rendering([stored(tmp_path / "a", make_pdf("one", "hang"), 1, 2)])
        assert next(found for found in pages if found is not None)
        assert alive()
    wait_until(lambda: not alive(), "the renderers to end")
    assert not [found for found in pages if found is not None]


def test_a_hanging_renderer_dies_with_its_parent(make_pdf: MakePdf, tmp_path: Path, misbehaving: None) -> None:
    asked = stored(tmp_path / "a", make_pdf("hang"))
    code = (
        "import sys\n"
        "from tests.documents.test_rendering import PageRange, renderers, taken\n"
        f"with renderers() as made: taken(made.rendering([{asked!r}]))\n"
    )
    path = os.pathsep.join([str(tmp_path / "bad"), str(Path(__file__).parents[2])])
    with started([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}) as parent:
        wait_until(lambda: descendants(parent.pid), "the renderer")
        (renderer,) = descendants(parent.pid)
        time.sleep(3)  # it hangs by now, and would not notice that its input ends
        parent.kill()
        parent.wait()
    wait_until(lambda: not Path(f"/proc/{renderer}").exists(), "the renderer to end", 10)
