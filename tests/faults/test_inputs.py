"""Damaged, misnamed and hostile objects: each ends in rows that say what became of it, and does nothing else."""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pymupdf
import pytest

from rtprune.dataset import Output, read_documents, read_pages
from rtprune.store import join
from tests.faults.conftest import Cluster
from tests.faults.corruption import HARMLESS, PAGES, damaged_documents, misnamed_documents, pdf
from tests.faults.driver import Ended, stop_before_reading
from tests.faults.proof import assert_whole, state
from tests.sources import write_pdf

pytestmark = pytest.mark.slow

SEED = 20
CONTROLS = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x202E)} - {"\n"}


def look_over(cluster: Cluster, source: object, output: object, *flags: str) -> Ended:
    """A run that must end well, and soon."""
    limits = ["--dpi", "36", "--max-pixels", "250000", "--page-timeout-s", "20", "--unit-pages", "16", "--workers", "1"]
    ended = cluster.start(str(source), str(output), *limits, *flags).wait(120)
    assert ended.code == 0, ended.complained
    assert_presentable(ended)
    return ended


def assert_presentable(ended: Ended) -> None:
    """Nothing of what it printed is a stack trace, or does something to a terminal."""
    assert "Traceback" not in ended.said + ended.complained
    assert not CONTROLS & set(ended.said + ended.complained)


def assert_accounted(output: object, uris: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Each of ``uris`` has one row, each page of those that opened has one, failures say why; returns the documents."""
    assert_whole(str(output))
    found = Output.existing(str(output))
    documents = read_documents(found).to_pylist()
    assert Counter(row["uri"] for row in documents) == Counter(uris)
    assert all(row["status"] in ("ok", "failed") for row in documents)
    for row in [*documents, *read_pages(found).to_pylist()]:
        reasons = (row["reason"], row["message"])
        assert all(reasons) if row["status"] == "failed" else reasons == (None, None), row
        assert "Traceback" not in str(reasons)
    return {row["uri"]: row for row in documents}


def assert_nothing_left(cluster: Cluster, source: object, output: Path) -> None:
    before = state(output)
    assert look_over(cluster, source, output).said.startswith("nothing to do")
    assert state(output) == before


def write_all(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


# Damage


def test_every_troublesome_shared_file_has_its_rows(cluster: Cluster, shared_data: Path, tmp_path: Path) -> None:
    folders = [shared_data / "broken", shared_data / "images"]
    source = tmp_path / "list.txt"
    source.write_text("".join(f"{folder}\n" for folder in folders))
    look_over(cluster, source, tmp_path / "out")
    documents = assert_accounted(tmp_path / "out", [str(path) for folder in folders for path in folder.iterdir()])
    refused = {Path(uri).name: row["reason"] for uri, row in documents.items() if row["status"] == "failed"}
    assert refused == {"invalid.pdf": "not-a-document", "locked_password_1234.pdf": "encrypted"}
    assert_nothing_left(cluster, source, tmp_path / "out")


def test_damaged_and_misnamed_documents_have_their_rows_and_lose_no_page_in_vain(
    cluster: Cluster, tmp_path: Path
) -> None:
    damaged = list(damaged_documents(SEED))
    files = {name: data for name, _, data in damaged} | misnamed_documents()
    assert len(damaged) >= 60
    source, output = write_all(tmp_path / "source", files), tmp_path / "out"
    look_over(cluster, source, output)
    documents = {
        Path(uri).name: row for uri, row in assert_accounted(output, [str(source / name) for name in files]).items()
    }
    for name in (name for name, damage, _ in damaged if damage in HARMLESS):
        assert (documents[name]["status"], documents[name]["pages"]) == ("ok", PAGES), name
    assert {name: documents[name]["pages"] or documents[name]["reason"] for name in misnamed_documents()} == {
        "a-picture.pdf": 1,
        "a-tiff.jpeg": 2,
        "a-document.png": 1,
        "a-text.tiff": "not-a-document",
        "a-program": "not-a-document",
        "empty.pdf": "not-a-document",
        "empty.png": "not-a-document",
        "empty": "not-a-document",
    }
    failures = Counter(row["reason"] for row in read_pages(Output.existing(str(output))).to_pylist())
    assert set(failures) == {None, "damaged"}, "pages that drew, and pages that did not"
    assert_nothing_left(cluster, source, output)


# Names

HOSTILE = (
    "two\nlines.pdf",
    "\x1b[2J\x1b]0;owned\x07.pdf",
    "\x9b31m\u202e\r.pdf",
    "up\\..\\..\\up.pdf",
    "%2e%2e%2fup.pdf",
    "%00.pdf",
    "'quoted\" `touch x` $(touch x); touch x.pdf",
    "--password=x.pdf",
    "*?[a-z]{b,c}**.pdf",
    "cafe\u0301 \ufb01le \U0001f5ce.pdf",
    "a#b?c=d&e+f g::h.pdf",
    "~",
    "n" * 220 + ".pdf",
)
NOT_UTF8 = b"scan-\xff\xfe.pdf"


def test_hostile_local_names_are_names_and_nothing_else(cluster: Cluster, tmp_path: Path) -> None:
    place = tmp_path / "far" / "down"
    source, output = write_all(place / "source", {name: pdf(name, 1) for name in HOSTILE}), place / "out"
    with open(os.path.join(os.fsencode(source), NOT_UTF8), "wb") as file:
        file.write(pdf("not UTF-8", 1))
    before = state(tmp_path)
    look_over(cluster, source, output)
    assert {path: at for path, at in state(tmp_path).items() if not path.startswith(f"{output}/")} == before
    escaped = f"{source}/scan-\\udcff\\udcfe.pdf"
    documents = assert_accounted(output, [*(f"{source}/{name}" for name in HOSTILE), escaped])
    failed = {uri: row["reason"] for uri, row in documents.items() if row["status"] == "failed"}
    assert failed == {escaped: "unreadable"}


def test_a_hostile_name_in_an_error_does_nothing_to_a_terminal(cluster: Cluster, tmp_path: Path) -> None:
    locked = write_pdf(tmp_path / "source" / "locked.pdf", 1, password="sesame")
    locked.rename(locked.parent / "\x1b]0;owned\x07\x9b\u202e\n.pdf")
    ended = cluster.start(
        str(locked.parent), str(tmp_path / "out"), before=stop_before_reading, RTPRUNE_PASSWORD="sesame"
    )
    assert ended.wait(120).code == 128 + 2
    refused = cluster.run(str(locked.parent), str(tmp_path / "out"))
    assert refused.code == 2
    assert r"\x1b]0;owned\x07\x9b\u202e .pdf is encrypted" in refused.complained.splitlines()[-1]
    assert_presentable(refused)


#: Beside these names below ``in/``. The server of the tests knows no key with a line break.
HOSTILE_KEYS = (
    "in/../escaped.pdf",
    "in/../../../etc/passwd.pdf",
    "in//etc/passwd.pdf",
    "in/./here.pdf",
    "in/%2e%2e/encoded.pdf",
    "in/..",
    "in/s3://elsewhere/in/a.pdf",
    "in/a.pdf",
    "in/" + "long/" * 150 + "a.pdf",
)
#: The client takes these for the key without their ends.
MISTAKEN_KEYS = ("in/a.pdf/", "in/a.pdf?versionId=1")


def test_hostile_keys_are_keys_and_nothing_else(cluster: Cluster, bucket: str) -> None:
    keys = [*HOSTILE_KEYS, *MISTAKEN_KEYS, *(f"in/{name}" for name in HOSTILE if "\n" not in name)]
    for key in keys:
        boto3.client("s3").put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=pdf(key, 1))
    before = objects()
    assert {(bucket.removeprefix("s3://"), key) for key in keys} <= set(before), "keys are stored as they are"
    look_over(cluster, join(bucket, "in"), join(bucket, "in/out/down"))
    after = objects()
    assert {place: after.get(place) for place in before} == before
    new = {f"s3://{name}/{key}" for name, key in after.keys() - before.keys()}
    assert all(uri.startswith(f"{bucket}/in/out/down/") for uri in new)
    documents = assert_accounted(join(bucket, "in/out/down"), [f"{bucket}/{key}" for key in keys])
    failed = {uri: row["reason"] for uri, row in documents.items() if row["status"] == "failed"}
    assert failed == {f"{bucket}/{key}": "unreadable" for key in MISTAKEN_KEYS}


def objects() -> dict[tuple[str, str], str]:
    """(bucket, key) of everything in the store, and its ETag."""
    client = boto3.client("s3")
    return {
        (name, found["Key"]): found["ETag"]
        for name in (each["Name"] for each in client.list_buckets()["Buckets"])
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name)
        for found in page.get("Contents", ())
    }


# What a document may ask for


class Listener:
    """Counts who connects to a port on loopback."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.met = threading.Semaphore(0)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                self._server.accept()[0].close()
            except OSError:
                return
            self.met.release()

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    one = Listener()
    yield one
    one.close()


def acting(words: str, action: str) -> bytes:
    """A PDF of one page that asks for ``action`` as it is opened, shown, clicked and closed."""
    with pymupdf.open(stream=pdf(words, 1)) as document:
        catalog, page = document.pdf_catalog(), document.page_xref(0)
        document.xref_set_key(catalog, "OpenAction", action)
        document.xref_set_key(catalog, "AA", f"<</WC {action}/WS {action}>>")
        document.xref_set_key(page, "AA", f"<</O {action}/C {action}>>")
        link = f"<</Type/Annot/Subtype/Link/Rect[0 0 150 100]/A {action}>>"
        field = (
            f"<</Type/Annot/Subtype/Widget/FT/Tx/T(field)/Rect[0 0 50 20]/AA<</C {action}/F {action}/PV {action}>>>>"
        )
        document.xref_set_key(page, "Annots", f"[{link}{field}]")
        return bytes(document.tobytes())


def external(words: str, url: str) -> bytes:
    """A PDF of one page whose contents and picture are said to lie at ``url``."""
    with pymupdf.open(stream=pdf(words, 1)) as document:
        place = f"/F<</Type/Filespec/FS/URL/F({url})>>"
        picture, elsewhere = document.get_new_xref(), document.get_new_xref()
        kind = "/Type/XObject/Subtype/Image/Width 8/Height 8/BitsPerComponent 8/ColorSpace/DeviceGray"
        document.update_object(picture, f"<<{kind}{place}>>")
        document.update_stream(picture, bytes(64), new=True, compress=False)
        document.update_object(elsewhere, f"<<{place}>>")
        document.update_stream(elsewhere, b"q 100 0 0 100 0 0 cm /P Do Q", new=True, compress=False)
        page = document.page_xref(0)
        document.xref_set_key(page, "Resources", f"<</XObject<</P {picture} 0 R>>>>")
        document.xref_set_key(page, "Contents", f"[{document[0].get_contents()[0]} 0 R {elsewhere} 0 R]")
        return bytes(document.tobytes())


def attaching(words: str, name: str) -> bytes:
    """A PDF of one page with a file in it that is called ``name``, which it asks to be opened."""
    with pymupdf.open(stream=pdf(words, 1)) as document:
        document.embfile_add(name, b"#!/bin/sh\n", filename=name, ufilename=name)
        action = f"<</S/Launch/F({name})>>"
        document.xref_set_key(document.pdf_catalog(), "OpenAction", action)
        return bytes(document.tobytes())


def demanding_documents(url: str, touched: Path) -> dict[str, bytes]:
    """PDFs that ask for connections to ``url``, or for the file ``touched`` to be made, each in its own way."""
    target = f"<</Type/Filespec/FS/URL/F({url})>>"
    script = rf'app.launchURL\("{url}"\); this.submitForm\("{url}"\); app.openDoc\("{url}"\);'
    launch = f"/F(/usr/bin/touch)/P({touched})/Unix<</F(touch {touched})>>/Win<</F(touch)/P({touched})>>"
    actions = {
        "script.pdf": f"<</S/JavaScript/JS({script})>>",
        "launch.pdf": f"<</S/Launch{launch}>>",
        "uri.pdf": f"<</S/URI/URI({url})>>",
        "remote.pdf": f"<</S/GoToR/F{target}/D[0/Fit]>>",
        "submit.pdf": f"<</S/SubmitForm/F{target}/Fields[]>>",
        "import.pdf": f"<</S/ImportData/F{target}>>",
    }
    return {name: acting(name, action) for name, action in actions.items()} | {
        "external.pdf": external("external", url),
        "attached.pdf": attaching("attached", str(touched)),
        "attached-above.pdf": attaching("attached above", f"../{touched.name}"),
    }


def test_what_a_document_asks_for_is_neither_fetched_nor_started(
    cluster: Cluster, listener: Listener, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    files = demanding_documents(listener.url, touched)
    source, output = write_all(tmp_path / "source", files), tmp_path / "out"
    before = state(tmp_path)
    look_over(cluster, source, output)
    documents = assert_accounted(output, [str(source / name) for name in files])
    assert {row["status"] for row in documents.values()} == {"ok"}
    assert {path: at for path, at in state(tmp_path).items() if not path.startswith(f"{output}/")} == before
    assert not listener.met.acquire(blocking=False), "somebody connected"
    socket.create_connection(("127.0.0.1", int(listener.url.rpartition(":")[2]))).close()
    assert listener.met.acquire(timeout=10), "the listener hears"
