from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
import s3fs
from moto.core.authorization import enable_iam_authentication

from rtprune.documents import SourceObject, list_objects, read_object
from rtprune.errors import DocumentError, StoreError, UsageError


def names(source: str, below: str) -> list[str]:
    return [found.uri.removeprefix(below + "/") for found in list_objects(source)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.pdf", "a.pdf", "deep/er/c.png", "notes.txt", "odd [1].pdf", ".DS_Store", ".git/x", "deep/.hid.pdf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def fill(bucket: str) -> Callable[..., str]:
    """``fill("a/1.pdf", ...)`` puts an object at each key and gives the bucket's URI."""

    def put(*keys: str) -> str:
        client = boto3.client("s3")
        for key in keys:
            client.put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=b"" if key.endswith("/") else b"xyz")
        return bucket

    return put


# Local


def test_a_folder_is_listed_with_all_below_it_sorted_and_without_hidden_files(folder):
    assert names(str(folder), str(folder)) == ["a.pdf", "b.pdf", "deep/er/c.png", "notes.txt", "odd [1].pdf"]


def test_a_file_is_one_object_whatever_its_name_says(folder):
    (found,) = list_objects(str(folder / "odd [1].pdf"))
    facts = (folder / "odd [1].pdf").stat()
    assert found == SourceObject(str(folder / "odd [1].pdf"), 11, f"11-{facts.st_mtime_ns}")


def test_a_file_that_changes_has_another_version(folder):
    before = next(list_objects(str(folder / "a.pdf"))).version
    os.utime(folder / "a.pdf", ns=(1, 1))
    assert next(list_objects(str(folder / "a.pdf"))).version != before


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.pdf", ["a.pdf", "b.pdf", "odd [1].pdf"]),
        ("**/*.p*", ["a.pdf", "b.pdf", "deep/er/c.png", "odd [1].pdf"]),
        ("[ab].pdf", ["a.pdf", "b.pdf"]),
        ("d*", ["deep/er/c.png"]),
        ("**", ["a.pdf", "b.pdf", "deep/er/c.png", "notes.txt", "odd [1].pdf"]),
        ("*.txt", ["notes.txt"]),
    ],
)
def test_a_glob_names_files_and_whole_folders(pattern, expected, folder):
    assert names(str(folder / pattern), str(folder)) == expected


def test_a_relative_path_is_made_absolute(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert names("./deep/../deep", str(folder)) == ["deep/er/c.png"]


def test_links_are_followed_and_circles_end(folder):
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "zlink").symlink_to(folder / "deep" / "er")
    (folder / "file-link").symlink_to(folder / "a.pdf")
    (folder / "nowhere").symlink_to(folder / "gone")
    found = {each.uri.removeprefix(f"{folder}/"): each for each in list_objects(str(folder))}
    assert list(found) == ["a.pdf", "b.pdf", "deep/er/c.png", "file-link", "notes.txt", "nowhere", "odd [1].pdf"]
    assert found["nowhere"].version == "missing"


def test_a_name_that_is_no_utf8_does_not_vanish_and_can_be_written_down(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/scan-\xff.pdf")).write_bytes(b"x")
    (found,) = list_objects(str(tmp_path))
    assert found.uri.encode().endswith(b"scan-\\udcff.pdf")
    with pytest.raises(DocumentError, match="does not exist"):
        read_object(found.uri)


@pytest.mark.parametrize(
    "source", ["absent", "absent.txt", "*.docx", "empty", "https://host/file.pdf", "s3://", "s3://*/a"]
)
def test_a_source_that_names_nothing_is_the_users_error_with_a_hint(source, tmp_path, monkeypatch, store_endpoint):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".hidden").write_text("x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        list_objects(source)
    assert source in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


# Lists


def test_a_list_names_files_folders_and_globs_each_object_once(folder, monkeypatch):
    monkeypatch.chdir(folder)
    lines = ["\ufeff# what to read", "", "a.pdf", "  b.pdf  ", f"{folder}/a.pdf", "deep", "*.pdf", "notes.txt"]
    (folder / "list.TXT").write_text("\r\n".join(lines), encoding="utf-8")
    assert names("list.TXT", str(folder)) == ["a.pdf", "b.pdf", "deep/er/c.png", "notes.txt", "odd [1].pdf"]


def test_an_entry_that_names_nothing_becomes_an_object_that_cannot_be_read(folder):
    (folder / "list.txt").write_text(f"{folder}/a.pdf\n{folder}/gone.pdf\n{folder}/*.tiff\nftp://host/file\n")
    found = {each.uri: each.version for each in list_objects(str(folder / "list.txt"))}
    missing = [uri for uri, version in found.items() if version == "missing"]
    assert missing == [f"{folder}/*.tiff", f"{folder}/gone.pdf", "ftp://host/file"]
    assert len(found) == 4
    for uri in missing:
        with pytest.raises(DocumentError) as caught:
            read_object(uri)
        assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("content", [b"", b"\n# only words\n", b"\xff\xfe\x00bin"])
def test_a_list_without_entries_is_the_users_error(content, tmp_path):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UsageError, match=r"list\.txt.*one path or URI on each line"):
        list_objects(str(tmp_path / "list.txt"))


def test_a_folder_named_like_a_list_is_a_folder(tmp_path):
    (tmp_path / "scans.txt").mkdir()
    (tmp_path / "scans.txt" / "a.pdf").write_text("x")
    assert names(str(tmp_path / "scans.txt"), str(tmp_path)) == ["scans.txt/a.pdf"]


# Store


KEYS = ("a/1.pdf", "a/2.pdf", "a/.hid/3.pdf", "a/sub/", "a/sub/x y#1.pdf", "a/r[1].pdf", "ab/4.pdf", "top.pdf")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", ["a/1.pdf", "a/2.pdf", "a/r[1].pdf", "a/sub/x y#1.pdf", "ab/4.pdf", "top.pdf"]),
        ("/a", ["a/1.pdf", "a/2.pdf", "a/r[1].pdf", "a/sub/x y#1.pdf"]),
        ("/a/", ["a/1.pdf", "a/2.pdf", "a/r[1].pdf", "a/sub/x y#1.pdf"]),
        ("/a/sub/x y#1.pdf", ["a/sub/x y#1.pdf"]),
        ("/a/r[1].pdf", ["a/r[1].pdf"]),
        ("/a/*.pdf", ["a/1.pdf", "a/2.pdf", "a/r[1].pdf"]),
        ("/a*", ["a/1.pdf", "a/2.pdf", "a/r[1].pdf", "a/sub/x y#1.pdf", "ab/4.pdf"]),
        ("/**/*1.pdf", ["a/1.pdf", "a/sub/x y#1.pdf"]),
        ("/a/[12].pdf", ["a/1.pdf", "a/2.pdf"]),
    ],
)
def test_a_store_is_listed_by_prefix_key_and_glob(source, expected, fill):
    bucket = fill(*KEYS)
    assert names(bucket + source, bucket) == expected


def test_dots_between_slashes_of_a_key_hide_nothing(fill):
    bucket = fill("a/../up.pdf", "a/./here.pdf", "a/..", "a//.hid.pdf", "a/...pdf")
    assert names(f"{bucket}/a", bucket) == ["a/..", "a/../up.pdf", "a/./here.pdf"]


def test_an_object_in_a_store_has_its_etag_as_version(fill):
    bucket = fill("a/1.pdf")
    facts = boto3.client("s3").head_object(Bucket=bucket.removeprefix("s3://"), Key="a/1.pdf")
    assert list(list_objects(bucket)) == [SourceObject(f"{bucket}/a/1.pdf", 3, facts["ETag"].strip('"'))]


def test_a_list_in_a_store_names_objects_there_and_here(fill, folder):
    bucket = fill("a/1.pdf", "b/2.pdf")
    lines = [f"{bucket}/a/1.pdf", f"{bucket}/b/", f"{bucket}/gone.pdf", "s3://no-such-bucket-here/x", f"{folder}/a.pdf"]
    boto3.client("s3").put_object(Bucket=bucket.removeprefix("s3://"), Key="list.txt", Body="\n".join(lines).encode())
    found = {each.uri: each.version == "missing" for each in list_objects(f"{bucket}/list.txt")}
    assert found == {
        f"{folder}/a.pdf": False,
        f"{bucket}/a/1.pdf": False,
        f"{bucket}/b/2.pdf": False,
        f"{bucket}/gone.pdf": True,
        "s3://no-such-bucket-here/x": True,
    }


@pytest.mark.parametrize("source", ["", "/none/", "/none.txt", "/*.pdf"])
def test_an_empty_prefix_is_the_users_error(source, bucket):
    with pytest.raises(UsageError, match=r"\(.+\)") as caught:
        list_objects(bucket + source)
    assert bucket in str(caught.value)


@pytest.mark.parametrize("key", ["", "/a", "/*.pdf", "/list.txt"])
def test_a_bucket_that_is_not_there_is_the_users_error(key, store_endpoint):
    with pytest.raises(UsageError, match="no-such-bucket-here"):
        list_objects("s3://no-such-bucket-here" + key)


@pytest.mark.parametrize("key", ["", "/a/1.pdf", "/a/*.pdf", "/list.txt"])
def test_wrong_credentials_are_the_users_error(key, fill):
    bucket = fill("a/1.pdf", "list.txt")
    with enable_iam_authentication(), pytest.raises(UsageError, match=r"refused.*credentials"):
        list_objects(bucket + key)


def test_a_list_whose_entries_are_all_refused_is_the_users_error(fill, tmp_path):
    bucket = fill("a/1.pdf")
    (tmp_path / "list.txt").write_text(f"{bucket}/a/1.pdf\n{bucket}/a/2.pdf\n")
    with enable_iam_authentication(), pytest.raises(UsageError, match="refused"):
        list_objects(str(tmp_path / "list.txt"))


def test_an_endpoint_where_nothing_answers_is_told_at_once(bucket, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    (tmp_path / "list.txt").write_text(f"{bucket}/a\n")
    try:
        for source in (f"{bucket}/a", str(tmp_path / "list.txt")):
            s3fs.S3FileSystem.clear_instance_cache()
            with pytest.raises(StoreError, match=r"did not answer.*AWS_ENDPOINT_URL"):
                list_objects(source)
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
