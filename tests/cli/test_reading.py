"""What ``rtprune page``, ``run`` and ``models`` print and end with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pymupdf
import pytest

from rtprune.cli import main
from rtprune.dataset import Output, read_pages
from rtprune.settings import PUBLISHED_MODEL
from tests.sources import quick_flags, write_pdf


def test_page_prints_the_text_and_its_token_facts(
    tmp_path: Path, random_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_pdf(tmp_path / "a.pdf", 2)
    flags = ["--model", str(random_checkpoint), "--mode", "tiny", "--max-output-tokens", "4"]
    assert main(["page", str(file), "--page", "2", "--prune", "0.25", *flags]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"page +2 of 2, read by .* in mode tiny", printed)
    assert re.search(r"visual tokens +73 -> \d+ \(\d+\.\d % saved\)", printed)
    assert "25.0 % of the free tokens" in printed


def test_models_are_listed_with_licences_and_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    for title in ("DeepSeek-OCR", "DeepSeek-OCR-2", "Unlimited-OCR", "LightOnOCR", "GLM-OCR"):
        assert re.search(rf"^{title}: \S+/\S+, weights under (MIT|Apache-2.0)$", printed, re.MULTILINE)
    assert "modes      tiny, small, base, large*, gundam" in printed
    assert r"<image>\n<|grounding|>Convert the document to markdown." in printed
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["published"] == PUBLISHED_MODEL


def test_page_without_pruning_keeps_every_token(
    tmp_path: Path, random_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_pdf(tmp_path / "a.pdf", 1)
    flags = ["--model", str(random_checkpoint), "--mode", "tiny", "--max-output-tokens", "4"]
    assert main(["page", str(file), "--prune", "off", *flags]) == 0
    assert "73 -> 73 (0.0 % saved)" in capsys.readouterr().out


def test_page_says_which_page_of_which_file_it_cannot_read(
    tmp_path: Path, random_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pymupdf.open() as document:
        document.new_page(width=14000, height=4)  # no view of it has a pixel of height
        document.save(tmp_path / "strip.pdf")
    model = ["--model", str(random_checkpoint), "--mode", "base", "--reread", "false"]
    assert main(["page", str(tmp_path / "strip.pdf"), *model]) == 1
    assert re.match(r"rtprune: error: page 1 of \S*strip\.pdf cannot be read: .*vanishes", capsys.readouterr().err)
    assert main(["page", str(tmp_path / "strip.pdf"), "--page", "2", *model]) == 2
    assert "strip.pdf has no page 2 (it has page 1 only)" in capsys.readouterr().err
    assert main(["page", str(tmp_path / "no.pdf"), *model]) == 2
    assert re.search(r"no\.pdf does not exist \(check its spelling", capsys.readouterr().err)


def test_page_draws_an_overlay(tmp_path: Path, random_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", str(random_checkpoint), "--mode", "tiny", "--max-output-tokens", "4"]
    page = ["page", str(write_pdf(tmp_path / "a.pdf", 1)), *flags]
    assert main([*page, "--overlay", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path / "a.png") in capsys.readouterr().out
    assert main([*page, "--overlay", str(tmp_path / "nowhere" / "a.png")]) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.usefixtures("local_ray")
def test_a_run_names_ten_of_the_pages_that_failed_and_counts_the_rest(
    tmp_path: Path, random_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    with pymupdf.open() as document:
        for _ in range(12):
            document.new_page(width=14000, height=4)  # no view of it has a pixel of height
        source.mkdir()
        document.save(source / "strips.pdf")
    write_pdf(source / "well.pdf", 1)
    flags = quick_flags(random_checkpoint, mode="base", unit_pages=3, workers=1, reread=False)
    assert main(["run", str(source), str(out), *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = lines[lines.index("failures") + 1 :]
    assert [re.match(r"  \S*/strips\.pdf, page (\d+) \[too-thin\] ", line)[1] for line in named[:-1]] == [
        str(page) for page in range(1, 11)
    ]
    assert named[-1] == f"  and 2 more: rtprune failures {out}"
    assert main(["stats", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-12:] == ["failures", *named]
    assert main(["stats", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["pages"], facts["page_failures"]) == ({"failed": 12, "truncated": 1}, {"too-thin": 12})
    assert facts["failure_count"] == 12
    assert [row["page"] for row in facts["failures"]] == list(range(1, 11))


@pytest.mark.usefixtures("local_ray")
def test_a_run_of_which_too_much_failed_says_so_keeps_the_rest_and_ends_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    write_pdf(source / "good.pdf", 2)
    damaged = write_pdf(source / "damaged.pdf", 1)
    damaged.write_bytes(damaged.read_bytes()[:200])
    (source / "notes.docx").write_bytes(b"PK no document of ours")
    assert main(["run", str(source), str(out), "--model", "none", "--workers", "1"]) == 3
    printed = capsys.readouterr().out
    assert "what was read is kept: 1 of 2 documents failed, more than the 10% that may" in printed
    assert "3 looked into, 2 of them could not be opened (1 are no documents)" in printed
    named = printed.splitlines()[-3:]
    assert named[0] == "failures"
    assert re.match(r"  \S*/damaged\.pdf \[damaged\] \S*damaged\.pdf is damaged", named[1])
    assert re.match(r"  \S*/notes\.docx \[not-a-document\] ", named[2])
    output = Output.existing(str(out))
    assert read_pages(output).num_rows == 2
    (row,) = pq.read_table(out / "runs").to_pylist()
    assert (row["status"], row["documents_failed"]) == ("failed", 2)
