"""A dataset's text as files, one for each document."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from rtprune.dataset.layout import Output
from rtprune.dataset.sql import query
from rtprune.errors import StoreError, UsageError

Format = Literal["markdown", "text", "jsonl"]

SUFFIXES: dict[Format, str] = {"markdown": ".md", "text": ".txt", "jsonl": ".jsonl"}
PAGE_MARKS: dict[Format, str] = {"markdown": "<!-- page {page} -->\n\n", "text": "", "jsonl": ""}
_BETWEEN: dict[Format, str] = {"markdown": "\n\n", "text": "\n\f\n", "jsonl": "\n"}
_LONGEST_NAME = 200  # bytes; file systems allow 255
_ROWS = """
WITH held AS (SELECT doc_id, min(uri) AS uri, max(pages) AS pages FROM current_documents GROUP BY doc_id)
SELECT doc_id, held.uri, page, status, text, reason, held.pages
FROM pages JOIN held USING (doc_id) ORDER BY doc_id, page
"""


@dataclass(frozen=True)
class ExportPage:
    """One page of a document; ``text`` is what it says, ``reason`` why it could not be read."""

    page: int
    status: str
    text: str | None
    reason: str | None


@dataclass(frozen=True)
class Exported:
    """What an export did: documents written, those whose files were the same already, pages marked as lacking."""

    written: int
    unchanged: int
    lacking: int


def export_dataset(output: Output, folder: Path, format: Format = "markdown", page_mark: str | None = None) -> Exported:
    """Write a file for each current document of which a page was read, its pages in order.

    Earlier versions of an object that has changed are not written; files that an earlier export wrote of them stay. A
    file's name is that of the first object that holds the document, without what a file system could misread, and the
    start of the document's id: two documents never share one, and none lies outside ``folder``. Files appear whole. A
    file that is the same already is left alone, so that an export that was killed, or that finds more pages than the
    last one, can just be run again.

    Args:
        folder: made where it is missing.
        page_mark: stands in front of each page, with the page's number in the place of "{page}"; the format's own when
            absent. JSON lines have none.

    Raises:
        UsageError: the folder cannot be written to.
        StoreError: the disk is full, or the dataset cannot be read.
    """
    mark = PAGE_MARKS[format] if page_mark is None else page_mark
    written = unchanged = lacking = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with query(output, _ROWS) as answer:
            for (doc_id, expected), rows in groupby(answer.rows, key=lambda row: (row[0], row[6])):
                read = list(rows)
                uri = str(read[0][1])
                pages = _whole([ExportPage(*row[2:6]) for row in read], expected or 0)
                lacking += sum(page.text is None for page in pages)
                content = document_text(uri, str(doc_id), pages, format, mark).encode()
                changed = _write(folder / file_name(uri, str(doc_id), format), content)
                written, unchanged = written + changed, unchanged + (not changed)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}", "name a folder you may write to") from error
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror}", "check the disk it lies on") from error
    return Exported(written, unchanged, lacking)


def file_name(uri: str, doc_id: str, format: Format) -> str:
    """A name that any file system takes, and no other document has."""
    stem = re.sub(r"[^\w.-]+", "_", uri.rsplit("/", 1)[-1]).strip("._")
    short = stem.encode()[:_LONGEST_NAME].decode(errors="ignore")
    return f"{short or 'document'}-{doc_id[:16]}{SUFFIXES[format]}"


def document_text(uri: str, doc_id: str, pages: Sequence[ExportPage], format: Format, mark: str) -> str:
    """The contents of a document's file."""
    return _BETWEEN[format].join(_parts(uri, doc_id, pages, format, mark)) + "\n"


def _parts(uri: str, doc_id: str, pages: Sequence[ExportPage], format: Format, mark: str) -> Iterator[str]:
    for page in pages:
        if format == "jsonl":
            values = {"uri": uri, "doc_id": doc_id, "page": page.page, "status": page.status, "text": page.text}
            yield json.dumps(values | ({"reason": page.reason} if page.reason else {}), ensure_ascii=False)
            continue
        text = page.text
        if text is None:
            why = f"page {page.page} {page.status}" + (f": {page.reason}" if page.reason else "")
            text = f"<!-- {why} -->" if format == "markdown" else f"[{why}]"
        yield mark.replace("{page}", str(page.page)) + text


def _whole(read: Sequence[ExportPage], expected: int) -> list[ExportPage]:
    """The pages that were read, and a place for each that was not."""
    by_number = {page.page: page for page in read}
    numbers = range(1, max(expected, *by_number) + 1)
    return [by_number.get(number) or ExportPage(number, "not read yet", None, None) for number in numbers]


def _write(path: Path, content: bytes) -> bool:
    """Put ``content`` there, whole or not at all; false where it is there already."""
    try:
        if path.read_bytes() == content:
            return False
    except FileNotFoundError:
        pass
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=".export-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise
    return True
