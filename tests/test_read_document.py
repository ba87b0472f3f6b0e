"""``rtprune.read``: one document to text, and what is said where it cannot be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pymupdf
import pytest

import rtprune
from rtprune.engine import Engine, PageResult, PlainPage
from rtprune.errors import DocumentError, Reason, RTPruneError, UsageError
from rtprune.models.protocol import OcrModel
from rtprune.read_document import PageSettings
from rtprune.settings import PAGE_SETTINGS
from rtprune.store import put
from tests.conftest import REPOSITORY
from tests.sources import write_pdf

LINES = ("Hello, page.", "Second page.", "The third one.")


@pytest.fixture(scope="module")
def mini() -> OcrModel:
    """The built-in model, loaded once."""
    return rtprune.load_model("mini")


def write_readable(path: Path, lines: Sequence[str] = LINES) -> Path:
    """A PDF with one line a page, in print that the built-in model reads."""
    document = pymupdf.open()
    for line in lines:
        document.new_page(width=256, height=256).insert_text((20, 40), line, fontname="cour", fontsize=40 / 3)
    document.save(path)
    document.close()
    return path


def without_contents(path: Path, page: int) -> Path:
    """The PDF with one page's reference in the page tree leading nowhere."""
    document = pymupdf.open(path)
    lost = document[page - 1].xref
    document.close()
    path.write_bytes(path.read_bytes().replace(b"\n%d 0 obj" % lost, b"\n%d 0 obj null endobj %%" % lost))
    return path


def test_every_page_is_read_in_order_with_its_number(tmp_path: Path) -> None:
    pages = rtprune.read(write_readable(tmp_path / "report.pdf"), model="mini")
    assert [(page.page, page.status, page.text) for page in pages] == [
        (number, "ok", line) for number, line in enumerate(LINES, start=1)
    ]
    for page in pages:
        assert page.facts is not None
        assert page.facts.tokens_after < page.facts.tokens_before
        assert page.timings.render_ms > 0


def test_pages_are_those_asked_for_in_the_order_asked(tmp_path: Path, mini: OcrModel) -> None:
    file = str(write_readable(tmp_path / "report.pdf"))
    assert [(page.page, page.text) for page in rtprune.read(file, [3, 1, 3], model=mini)] == [
        (3, LINES[2]),
        (1, LINES[0]),
        (3, LINES[2]),
    ]
    assert [page.page for page in rtprune.read(file, 2, model=mini)] == [2]
    assert [page.page for page in rtprune.read(file, range(2, 4), model=mini)] == [2, 3]
    assert rtprune.read(file, [], model=mini) == []


def test_settings_and_pruning_are_those_of_the_engine(
    tmp_path: Path, mini: OcrModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_readable(tmp_path / "report.pdf", LINES[:1])

    def saved(**given: object) -> tuple[int, int]:
        (page,) = rtprune.read(file, model=mini, **given)  # type: ignore[arg-type]
        assert page.facts is not None
        return page.facts.tokens_before, page.facts.tokens_after

    assert saved(prune="off") == (73, 73)
    before, after = saved(prune=0.25)
    assert before == 73
    assert after < 73
    assert saved(pruning=rtprune.PruneConfig(ratio=0.25)) == (before, after)
    monkeypatch.setenv("RTPRUNE_PRUNE", "off")
    assert saved() == (73, 73)


def test_an_object_in_a_store_and_a_locked_one_are_read(tmp_path: Path, bucket: str, mini: OcrModel) -> None:
    put(f"{bucket}/report.pdf", write_readable(tmp_path / "report.pdf").read_bytes())
    assert rtprune.read(f"{bucket}/report.pdf", 1, model=mini)[0].text == LINES[0]
    locked = write_pdf(tmp_path / "locked.pdf", 1, password="sesame")
    assert len(rtprune.read(locked, model=mini, password="sesame", max_output_tokens=4)) == 1


def test_a_page_that_fails_says_so_and_loses_no_other(tmp_path: Path, mini: OcrModel) -> None:
    file = without_contents(write_readable(tmp_path / "report.pdf"), 2)
    first, second, third = rtprune.read(file, model=mini)
    assert (first.text, third.text) == (LINES[0], LINES[2])
    assert (second.page, second.status, second.reason, second.text) == (2, "failed", Reason.DAMAGED, "")
    assert second.message


def test_a_page_that_the_model_cannot_be_shown_says_so_and_loses_no_other(
    tmp_path: Path, random_checkpoint: Path
) -> None:
    document = pymupdf.open(write_readable(tmp_path / "whole.pdf"))
    document.new_page(pno=1, width=14000, height=4)
    document.save(tmp_path / "report.pdf")
    settings: PageSettings = {"mode": "base", "max_output_tokens": 2, "reread": False}
    results = rtprune.read(tmp_path / "report.pdf", model=str(random_checkpoint), **settings)
    assert [page.status == "failed" for page in results] == [False, True, False, False]
    assert (results[1].page, results[1].reason) == (2, Reason.TOO_THIN)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"file": 7}, "file must be a path or an s3:// URI, as str or os.PathLike, not 7, of type int"),
        ({"file": b"report.pdf"}, "file must be a path"),
        ({"pages": "2-4"}, "pages must be page numbers, such as 3, [1, 3] or range(1, 4), not '2-4', of type str"),
        ({"pages": True}, "pages must be page numbers"),
        ({"pages": [1, 2.5]}, "not 2.5, of type float"),
        ({"model": 3}, "model must be a name or what rtprune.load_model gives, not 3"),
        ({"pruning": 0.25}, "pruning must be a rtprune.PruneConfig, not 0.25"),
        ({"prune": True}, "prune must be 'dynamic', 'off' or a share from 0 to 1, not True"),
        ({"prune": None}, "prune cannot be None (Share of free visual tokens"),
        ({"mode": 3}, "mode cannot be 3 (View size"),
        ({"dpi": [144]}, "dpi cannot be [144] (Resolution"),
        ({"workers": 2}, "read() takes no argument 'workers': there are model, mode,"),
    ],
)
def test_a_wrong_type_is_refused_before_anything_is_opened(given: dict[str, object], said: str) -> None:
    with pytest.raises(TypeError) as caught:
        rtprune.read(**{"file": "there is no such file", "model": "mini", **given})  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_a_value_that_a_setting_cannot_have_is_named_with_its_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, said in (({"prune": 1.5}, "prune cannot be 1.5"), ({"dpi": 5}, "dpi cannot be 5")):
        with pytest.raises(UsageError, match=said) as caught:
            rtprune.read("any.pdf", **given)  # type: ignore[arg-type]
        assert caught.value.hint
    monkeypatch.setenv("RTPRUNE_DPI", "much")
    with pytest.raises(UsageError, match="RTPRUNE_DPI: dpi cannot be 'much'"):
        rtprune.read("any.pdf")


def test_what_cannot_be_opened_says_what_where_and_what_to_do(tmp_path: Path, bucket: str) -> None:
    damaged = write_pdf(tmp_path / "damaged.pdf", 1)
    damaged.write_bytes(damaged.read_bytes()[:200])
    note = tmp_path / "note.txt"
    note.write_text("no document")
    locked = write_pdf(tmp_path / "locked.pdf", 1, password="sesame")
    for file, reason, what, hint in (
        (tmp_path / "no.pdf", Reason.UNREADABLE, "does not exist", "check its spelling"),
        (f"{bucket}/no.pdf", Reason.UNREADABLE, "does not exist", "check its spelling"),
        (tmp_path, Reason.UNREADABLE, "not a regular file", "`rtprune run` reads folders"),
        (damaged, Reason.DAMAGED, "damaged", "fetch it anew"),
        (note, Reason.NOT_A_DOCUMENT, "neither PDF nor PNG", "convert it"),
        (locked, Reason.ENCRYPTED, "needs a password", "give password="),
    ):
        with pytest.raises(DocumentError, match=what) as caught:
            rtprune.read(file, model="mini")
        assert caught.value.reason == reason
        assert str(file) in caught.value.message
        assert hint in (caught.value.hint or "")
        assert isinstance(caught.value, RTPruneError)


def test_a_page_that_there_is_not_is_refused_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_readable(tmp_path / "report.pdf")

    def load(name: str) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("rtprune.models.load_model", load)
    for page in (0, 4, -1):
        with pytest.raises(UsageError, match=rf"report\.pdf has no page {page} \(it has pages 1 to 3\)"):
            rtprune.read(file, [1, page], model="mini")


def test_a_path_that_lost_a_slash_of_its_uri_is_told_apart_from_a_missing_file() -> None:
    with pytest.raises(UsageError, match="give s3:// URIs as str"):
        rtprune.read(Path("s3://bucket/report.pdf"), model="mini")


def test_it_takes_the_settings_that_rtprune_page_takes() -> None:
    assert {"model", *PageSettings.__annotations__} == set(PAGE_SETTINGS)


def test_a_page_without_a_document_has_no_number(tmp_path: Path, mini: OcrModel) -> None:
    (image,) = rtprune.documents.render_pages(  # type: ignore[attr-defined]
        rtprune.documents.open_document("a.pdf", write_readable(tmp_path / "a.pdf", LINES[:1]).read_bytes()),  # type: ignore[attr-defined]
        [1],
    )
    engine = Engine(mini, rtprune.ReadSettings())
    ((_, result),) = engine.stream([("a", PlainPage(image.picture))])
    assert isinstance(result, PageResult)
    assert (result.text, result.page, result.timings.render_ms) == (LINES[0], None, 0.0)


def test_neither_ray_nor_prefect_is_imported(tmp_path: Path) -> None:
    file = write_readable(tmp_path / "report.pdf", LINES[:1])
    code = (
        "import sys, rtprune\n"
        f"print(rtprune.read({str(file)!r}, model='mini')[0].text)\n"
        "print([name for name in ('ray', 'prefect', 'duckdb') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.splitlines() == [LINES[0], "[]"]
