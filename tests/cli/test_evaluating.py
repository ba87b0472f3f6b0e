"""`rtprune eval` scores what any system wrote, and lists what it could not score."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rtprune.cli import main


def test_help_needs_no_library_of_the_extra() -> None:
    code = (
        "import sys; from rtprune.cli import main; main(['eval', '--help'])\n"
        "names = ('rapidfuzz', 'fuzzysearch', 'bs4', 'lxml', 'playwright', 'pylatexenc', 'docling_metrics_table')\n"
        "print([name for name in names if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
    assert "--answers" in ended.stdout


def test_a_missing_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fuzzysearch", None)
    monkeypatch.setitem(sys.modules, "rapidfuzz.fuzz", None)
    given = ["--answers", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["eval", "--bench", "olmocr", *given]) == 2
    assert "pip install 'rtprune[eval]'" in capsys.readouterr().err


def test_answers_are_scored_page_by_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fuzzysearch", reason="the extra rtprune[eval] is not installed")
    data, answers, out = tmp_path / "data", tmp_path / "answers", tmp_path / "out"
    (data / "pdfs").mkdir(parents=True)
    answers.mkdir()
    for name in ("a.pdf", "b.pdf"):
        (data / "pdfs" / name).write_bytes(b"")
    facts = [
        {"pdf": "a.pdf", "page": 1, "id": "1", "type": "present", "text": "one"},
        {"pdf": "b.pdf", "page": 1, "id": "2", "type": "absent", "text": "one"},
        {"pdf": "a.pdf", "page": 1, "id": "3", "type": "colour"},
    ]
    (data / "facts.jsonl").write_text("\n".join(map(json.dumps, facts)) + "\nno fact\n")
    (answers / "a_pg1_repeat1.md").write_text("one")
    given = ["eval", "--bench", "olmocr", "--answers", str(answers), "--data", str(data), "--out", str(out)]
    assert main(given) == 0
    page = (out / "scores.md").read_text()
    assert capsys.readouterr().out == page
    assert "| answers | 50.0 |" in page
    for line in ("1 pages without an answer", "1 facts that were not judged", "1 lines that are no fact"):
        assert f"- {line}" in page
    assert "gives such a system 0" in page
    rows = {row["pdf"]: row for row in pq.read_table(out / "pages.parquet").to_pylist()}
    assert rows["a.pdf"] == {"pdf": "a.pdf", "page": 1, "facts": 3, "judged": 2, "passed": 2, "answers": 1}
    assert rows["b.pdf"] == {"pdf": "b.pdf", "page": 1, "facts": 2, "judged": 2, "passed": 0, "answers": 0}
    assert pq.read_table(out / "facts.parquet").num_rows == 5
    assert main([*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == ["b.pdf page 1"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fuzzysearch", reason="the extra rtprune[eval] is not installed")
    given = ["--answers", str(tmp_path / "no"), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["eval", "--bench", "olmocr", *given]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_pages_of_omnidocbench_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("docling_metrics_table", reason="the extra rtprune[eval] is not installed")
    data, answers, out = tmp_path / "data", tmp_path / "answers", tmp_path / "out"
    data.mkdir()
    answers.mkdir()
    blocks = [
        {"anno_id": 1, "order": 1, "category_type": "title", "text": "A title of words"},
        {"anno_id": 2, "order": 2, "category_type": "text_block", "text": "And a paragraph that follows"},
    ]
    pages = [
        {"layout_dets": blocks, "extra": {"relation": []}, "page_info": {"image_path": name}}
        for name in ("a.jpg", "b.jpg")
    ]
    (data / "OmniDocBench.json").write_text(json.dumps([*pages, {"page_info": {"image_path": "c.jpg"}}]))
    (answers / "a.md").write_text("# A title of words\n\nAnd a paragraph that follows")
    given = ["eval", "--bench", "omnidocbench", "--answers", str(answers), "--data", str(data), "--out", str(out)]
    assert main(given) == 0
    page = capsys.readouterr().out
    for line in ("1 pages without an answer", "1 pages laid out otherwise", "no published version has so many"):
        assert line in page
    rows = {row["image"]: row for row in pq.read_table(out / "pages.parquet").to_pylist()}
    assert (rows["a.jpg"]["text_edit"], rows["b.jpg"]["text_edit"], rows["c.jpg"]["text_edit"]) == (0.0, 1.0, None)
    assert rows["c.jpg"]["problem"]
    assert pq.read_table(out / "pairs.parquet").num_rows == 4
    assert main([*given, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert (figures["text_edit"]["value"], figures["strict_text_edit"]["value"]) == (0.0, 0.5)
