"""Small sources of documents, made on the spot, and what a dataset made of them must hold."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import duckdb

from rtprune.dataset import Output, read_documents, read_pages, verify_dataset
from rtprune.settings import RunSettings
from rtprune.store import is_remote, join, open_filesystem


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
    quick["max_failed"] = "100%"  # what fails is looked at page by page
    return RunSettings(**{**quick, **settings})  # type: ignore[arg-type]


def quick_flags(checkpoint: Path, **settings: object) -> list[str]:
    """The same as command line flags."""
    given = quick_settings(checkpoint, **settings).model_dump(exclude_unset=True)
    return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def glob_pages(output: str) -> Counter[tuple[str, int]]:
    """How often DuckDB gives each page (``doc_id``, number) by a plain glob over the files of the pages."""
    with duckdb.connect(config={"threads": 1}) as database:
        if is_remote(output):
            database.register_filesystem(open_filesystem(output)[0])
        query = "SELECT doc_id, page, count(*) FROM read_parquet(?) GROUP BY ALL"
        try:
            found = database.execute(query, [join(output, "pages/**/*.parquet")]).fetchall()
        except duckdb.IOException as error:
            if "No files found" not in str(error):
                raise
            found = []
    return Counter({(doc_id, page): times for doc_id, page, times in found})


def assert_complete(output: str) -> Counter[str]:
    """Every page of every readable document is in the dataset exactly once, for our readers as by a plain glob over its
    files, and all of it is as it was written; returns how often each status occurs."""
    found = Output.existing(output)
    documents = read_documents(found).to_pylist()
    expected = Counter(
        (row["doc_id"], page) for row in documents if row["status"] == "ok" for page in range(1, row["pages"] + 1)
    )
    rows = read_pages(found).to_pylist()
    assert Counter((row["doc_id"], row["page"]) for row in rows) == expected
    assert glob_pages(found.uri) == expected
    verdict = verify_dataset(found)
    assert verdict.sound, verdict.errors
    return Counter(row["status"] for row in rows)
