"""Small sources of documents, made on the spot, and what a dataset made of them must hold."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rtprune.dataset import Output, committed_files, read_documents, read_pages
from rtprune.settings import RunSettings
from rtprune.store import find, join


def write_pdf(path: Path, pages: int, words: str = "page", password: str | None = None) -> Path:
    """A PDF whose pages say ``words`` and their number, encrypted if there is a ``password``."""
    import pymupdf

    path.parent.mkdir(parents=True, exist_ok=True)
    document = pymupdf.open()
    for number in range(1, pages + 1):
        page = document.new_page(width=200, height=200)
        page.insert_text((20, 100), f"{words} {number}", fontsize=18)
    lock = {"encryption": pymupdf.PDF_ENCRYPT_AES_256, "user_pw": password} if password else {}
    document.save(path, **lock)
    document.close()
    return path


def write_corpus(folder: Path, documents: int = 6, pages: int = 2) -> Path:
    """A folder of PDFs that all differ."""
    for number in range(documents):
        write_pdf(folder / f"document-{number:02d}.pdf", pages, f"document {number}, page")
    return folder


def quick_settings(checkpoint: Path, **settings: object) -> RunSettings:
    """Settings with which a page costs next to nothing."""
    quick = {"model": str(checkpoint), "mode": "tiny", "max_output_tokens": 4, "unit_pages": 2, "batch_pages": 2}
    return RunSettings(**{**quick, **settings})  # type: ignore[arg-type]


def quick_flags(checkpoint: Path, **settings: object) -> list[str]:
    """The same as command line flags."""
    given = quick_settings(checkpoint, **settings).model_dump(exclude_unset=True)
    return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def assert_complete(output: str) -> Counter[str]:
    """Every page of every readable document is in the dataset exactly once, by its markers as by a plain glob over its
    files; returns how often each status occurs."""
    found = Output.existing(output)
    documents = read_documents(found).to_pylist()
    expected = Counter(
        (row["doc_id"], page) for row in documents if row["status"] == "ok" for page in range(1, row["pages"] + 1)
    )
    rows = read_pages(found).to_pylist()
    assert Counter((row["doc_id"], row["page"]) for row in rows) == expected
    committed = {join(found.uri, file.file) for file in committed_files(found).values()}
    assert set(find(join(found.uri, "pages"), ".parquet")) == committed
    return Counter(row["status"] for row in rows)
