from __future__ import annotations

import copy
import hashlib
import os
import re
from pathlib import Path

import boto3
import pymupdf
import pytest
from moto.core.authorization import enable_iam_authentication

from rtprune.documents import document as subject
from rtprune.documents import list_objects, open_document, read_object
from rtprune.errors import DocumentError, StoreError, UsageError


def refusal(data: bytes, password: str | None = None) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        open_document("folder/name", data, password)
    assert "folder/name" in str(caught.value)
    return caught.value


def test_a_pdf_is_known_by_content_and_named_by_its_hash(make_pdf):
    data = make_pdf("one", "two")
    document = open_document("scan.jpg", data)
    assert (document.kind, document.page_count, document.uri) == ("pdf", 2, "scan.jpg")
    assert document.doc_id == hashlib.sha256(data).hexdigest()


def test_bytes_before_the_pdf_header_do_not_hide_it(make_pdf):
    assert open_document("u", b"\r\n" * 200 + make_pdf("one")).page_count == 1


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", bytes(1020)])
def test_a_pdf_header_may_stand_anywhere_in_the_first_kilobyte(before, make_pdf):
    assert open_document("u", before + make_pdf("one").replace(b"%PDF-", b"%PDF ", 1)).page_count == 1


@pytest.mark.parametrize("name", ["folder/scan.pdf", "folder/SCAN.PDF"])
def test_a_pdf_without_a_header_is_known_by_its_name(name, make_pdf):
    data = make_pdf("one", "two").split(b"\n", 1)[1]
    for headless in (data, b"x" * 3000 + data):
        document = open_document(name, headless)
        assert (document.kind, document.page_count) == ("pdf", 2)
        assert refusal(headless).reason == "not-a-document"


def test_an_encrypted_pdf_without_a_header_needs_its_password(make_pdf):
    data = make_pdf("one", encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="sesame", owner_pw="owner")
    headless = data.split(b"\n", 1)[1]
    assert open_document("a.pdf", headless, "sesame").page_count == 1
    with pytest.raises(DocumentError, match="--password"):
        open_document("a.pdf", headless)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(range(256)) * 40,
        b"plain text " * 400,
        b"<html><body>Not found</body></html>",
        b"1 0 obj\n<</Type/Foo>>\nendobj\n",
        b"GIF89a" + bytes(40),
        b"PK\3\4" + bytes(40),
    ],
)
def test_a_name_alone_makes_no_document(data):
    with pytest.raises(DocumentError, match="neither PDF nor") as caught:
        open_document("folder/name.pdf", data)
    assert caught.value.reason == "not-a-document"


def test_a_known_hash_is_not_computed_again(make_pdf):
    assert open_document("u", make_pdf("one"), doc_id="known").doc_id == "known"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_pictures_are_known_by_content(kind, drawing, encode):
    document = open_document("name.pdf", encode(drawing, kind))
    assert (document.kind, document.page_count) == ("image", 1)


def test_each_frame_of_a_tiff_is_a_page(drawing, encode):
    data = encode(drawing, "TIFF", save_all=True, append_images=[drawing, drawing.resize((30, 70))])
    assert open_document("u", data).page_count == 3


def test_a_damaged_frame_counts_as_a_page_and_hides_those_behind_it(drawing, encode):
    data = encode(drawing, "TIFF", save_all=True, append_images=[drawing, drawing])
    first_directory = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[first_directory : first_directory + 2], "little")
    link = first_directory + 2 + 12 * entries
    second = int.from_bytes(data[link : link + 4], "little")
    broken = bytearray(data)
    broken[second : second + 40] = b"\xee" * 40
    assert open_document("u", bytes(broken)).page_count == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain text",
        b"%!PS-Adobe",
        b"GIF89a" + bytes(40),
        b"BMW is no bitmap, this is text",
        bytes(5000),
        b"PK\3\4",
    ],
)
def test_what_is_no_document_is_called_so(data):
    assert refusal(data).reason == "not-a-document"


@pytest.mark.parametrize("data", [b"%PDF-1.7", b"%PDF-1.3\nThis is not a valid PDF file\n%%EOF\n"])
def test_a_pdf_header_alone_makes_no_document(data):
    assert refusal(data).reason == "not-a-document"


def test_a_picture_header_alone_is_damaged():
    assert refusal(b"\x89PNG\r\n\x1a\n").reason == "damaged"


@pytest.mark.parametrize("method", [pymupdf.PDF_ENCRYPT_AES_256, pymupdf.PDF_ENCRYPT_RC4_128])
def test_an_encrypted_pdf_opens_with_its_password_only(method, make_pdf):
    data = make_pdf("secret", encryption=method, user_pw="sesame", owner_pw="owner")
    assert "--password" in str(refusal(data))
    assert refusal(data).reason == refusal(data, "wrong").reason == "encrypted"
    assert open_document("u", data, "sesame").page_count == 1


def test_a_pdf_that_restricts_only_its_owner_opens_without_password(make_pdf):
    data = make_pdf("open", encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="", owner_pw="owner")
    assert open_document("u", data).page_count == 1


def test_an_unknown_encryption_is_called_so(make_pdf):
    data = make_pdf("secret", encryption=pymupdf.PDF_ENCRYPT_RC4_128, user_pw="sesame", owner_pw="owner")
    assert refusal(re.sub(rb"/V \d", b"/V 9", data), "sesame").reason == "encrypted"


def test_a_password_never_shows(make_pdf):
    data = make_pdf("secret", encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="sesame", owner_pw="owner")
    assert "sesame" not in repr(open_document("u", data, "sesame"))
    assert "guess" not in str(refusal(data, "guess"))


def test_a_pdf_without_pages_is_called_so(make_pdf):
    data = make_pdf("one").replace(b"/Count 1", b"/Count 0").replace(b"/Type/Page/", b"/Type/Note/")
    assert refusal(re.sub(rb"/Kids\[[^]]*\]", b"/Kids[]", data)).reason == "no-pages"


def test_a_pdf_whose_tree_has_lost_its_pages_is_damaged(make_pdf):
    data = make_pdf("one").replace(b"/Count 1", b"/Count 0")
    assert refusal(re.sub(rb"/Kids\[[^]]*\]", b"/Kids[]", data)).reason == "damaged"


@pytest.mark.parametrize("count", [b"0", b"1", b"-7", b"null", b"99999999", b"2147483648"])
def test_a_wrong_page_count_neither_hides_nor_invents_pages(count, make_pdf):
    data = make_pdf("one", "two").replace(b"/Count 2", b"/Count " + count)
    assert open_document("u", data).page_count == 2


def test_pages_that_the_count_claims_are_counted(make_pdf):
    assert open_document("u", make_pdf("one", "two").replace(b"/Count 2", b"/Count 4")).page_count == 4


def test_a_page_tree_in_circles_ends(make_pdf):
    data = make_pdf("one", "two")
    assert open_document("u", re.sub(rb"\d+ 0 R\]", b"2 0 R]", data, count=1)).page_count == 2


def test_document_errors_survive_the_way_between_processes():
    error = copy.copy(refusal(b"text"))  # by the same steps as Ray
    assert (error.reason, error.hint) == ("not-a-document", "leave it out or convert it")


def test_a_file_is_read_whole(tmp_path):
    file = tmp_path / "ünï cøde [1].bin"
    file.write_bytes(b"abc")
    assert read_object(str(file)) == b"abc"


def test_what_cannot_be_read_is_unreadable(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "file").write_bytes(b"")
    names = ["pipe", "nowhere", "circle", "absent", "file/below", ".", "x" * 5000, "nul\0"]
    for uri in [*(str(tmp_path / name) for name in names), "ftp://host/file"]:
        with pytest.raises(DocumentError) as caught:
            read_object(uri)
        assert caught.value.reason == "unreadable", uri


def test_a_refused_file_is_unreadable(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"abc")

    def refuse(uri: str) -> bytes:
        raise UsageError(f"access to {uri} was refused") from PermissionError(13, "Permission denied")

    monkeypatch.setattr(subject, "get", refuse)
    with pytest.raises(DocumentError) as caught:
        read_object(str(file))
    assert caught.value.reason == "unreadable"


def test_an_object_is_read_from_a_store(bucket):
    name = bucket.removeprefix("s3://")
    boto3.client("s3").put_object(Bucket=name, Key="a/odd [name] #1?.bin", Body=b"abc")
    assert read_object(f"{bucket}/a/odd [name] #1?.bin") == b"abc"
    for key in ("b", "b/", "b?versionId=1"):
        boto3.client("s3").put_object(Bucket=name, Key=key, Body=key.encode())
    assert read_object(f"{bucket}/b") == b"b"
    for missing in (
        f"{bucket}/b/",
        f"{bucket}/b?versionId=1",
        f"{bucket}/a/none",
        "s3://there-is-no-such-bucket/key",
        bucket,
        "s3://",
    ):
        with pytest.raises(DocumentError) as caught:
            read_object(missing)
        assert caught.value.reason == "unreadable"


def test_credentials_rejected_altogether_are_no_fault_of_the_document(bucket):
    boto3.client("s3").put_object(Bucket=bucket.removeprefix("s3://"), Key="a", Body=b"abc")
    with enable_iam_authentication(), pytest.raises(StoreError, match="credentials"):
        read_object(f"{bucket}/a")


def test_every_shared_file_opens_or_says_why(shared_data: Path):
    refused = {}
    for folder in ("pages", "broken", "images"):
        for found in list_objects(str(shared_data / folder / "*.*")):
            try:
                assert open_document(found.uri, read_object(found.uri)).page_count >= 1
            except DocumentError as error:
                refused[Path(found.uri).name] = error.reason
    assert refused == {
        "facts.jsonl": "not-a-document",
        "invalid.pdf": "not-a-document",
        "locked_password_1234.pdf": "encrypted",
    }
    locked = str(shared_data / "broken" / "locked_password_1234.pdf")
    assert open_document(locked, read_object(locked), "1234").page_count == 1
