"""Objects named by inventories: S3's own reports in each format, and plain tables."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest

from rtprune.documents import SourceObject, list_objects, sources
from rtprune.errors import UsageError
from rtprune.store import put

KEYS = ["b c.pdf", "a+b.pdf", "folder/", "ä/1.pdf", "old.pdf", "gone.pdf"]
WANTED = [
    SourceObject("s3://corpus/a+b.pdf", 2, "e2"),
    SourceObject("s3://corpus/b c.pdf", 1, "e1"),
    SourceObject("s3://corpus/ä/1.pdf", 4, "e4"),
]


def columns() -> dict[str, list[object]]:
    """What S3 tells of the keys: one marks a folder, one is an older version, one was deleted."""
    return {
        "bucket": ["corpus"] * 6,
        "key": list(KEYS),
        "is_latest": [True, True, True, True, False, True],
        "is_delete_marker": [False, False, False, False, False, True],
        "size": [1, 2, 0, 4, 5, None],
        "e_tag": [f"e{number}" for number in range(1, 7)],
    }


def as_parquet(path: Path) -> bytes:
    pq.write_table(pa.table(columns()), path)
    return path.read_bytes()


def as_orc(path: Path) -> bytes:
    orc.write_table(pa.table(columns()), str(path))
    return path.read_bytes()


def as_csv(path: Path) -> bytes:
    from urllib.parse import quote_plus

    rows = zip(*columns().values(), strict=True)
    lines = [
        f'"{bucket}","{quote_plus(str(key))}","{latest}","{deleted}","{size or ""}","{etag}"\n'.replace("True", "true")
        for bucket, key, latest, deleted, size, etag in rows
    ]
    return gzip.compress("".join(lines).encode())


@pytest.mark.parametrize("kind", ["CSV", "Parquet", "ORC"])
def test_a_report_names_its_objects(kind: str, bucket: str, tmp_path: Path) -> None:
    data = {"CSV": as_csv, "Parquet": as_parquet, "ORC": as_orc}[kind](tmp_path / "part")
    put(f"{bucket}/report/data/part", data)
    put(f"{bucket}/report/data/again", data)  # objects may move from one part to the next meanwhile
    parts = [
        {"key": f"report/data/{name}", "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()}
        for name in ("part", "again")
    ]
    manifest = {
        "sourceBucket": "corpus",
        "destinationBucket": f"arn:aws:s3:::{bucket.removeprefix('s3://')}",
        "fileFormat": kind,
        "fileSchema": "Bucket, Key, IsLatest, IsDeleteMarker, Size, ETag",
        "files": parts,
    }
    put(f"{bucket}/report/manifest.json", json.dumps(manifest).encode())
    assert list(list_objects(f"{bucket}/report/manifest.json")) == WANTED
    put(f"{bucket}/report/data/again", data[:-1] + b"x")
    with pytest.raises(UsageError, match=r"again, a part of the inventory .* is damaged"):
        list_objects(f"{bucket}/report/manifest.json")


@pytest.mark.parametrize("name", ["list.csv", "list.csv.gz", "list.parquet"])
def test_a_table_of_uris_names_its_objects(name: str, tmp_path: Path) -> None:
    text = 'uri,size,etag\ns3://corpus/b.pdf,7,"""e1"""\n"/data/a, b.pdf",3,\n'
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(
            pa.table({"uri": ["s3://corpus/b.pdf", "/data/a, b.pdf"], "size": [7, 3], "etag": ['"e1"', None]}), path
        )
    else:
        path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert list(list_objects(str(path))) == [
        SourceObject("/data/a, b.pdf", 3, "3"),
        SourceObject("s3://corpus/b.pdf", 7, "e1"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", b"name\nx\n", "has no column 'uri'"),
        ("list.parquet", b"no parquet", "cannot be read"),
        ("list.csv.gz", b"no gzip", "cannot be read"),
        ("manifest.json", b"{}", "not the manifest of an S3 Inventory"),
        ("manifest.json", b"\xff", "not the manifest of an S3 Inventory"),
        ("list.csv", b"uri\n", "nothing to read"),
    ],
)
def test_what_is_no_inventory_is_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        list_objects(str(tmp_path / name))


def test_a_prefix_of_many_pages_is_listed_in_order(
    bucket: str, monkeypatch: pytest.MonkeyPatch, store_endpoint: str
) -> None:
    import boto3

    monkeypatch.setattr(sources, "LIST_KEYS", 5)
    client = boto3.client("s3", endpoint_url=store_endpoint)
    for number in range(23):
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=f"in/{number:04d}.pdf", Body=b"x")
    listed = [found.uri for found in list_objects(f"{bucket}/in")]
    assert listed == [f"{bucket}/in/{number:04d}.pdf" for number in range(23)]
