"""Keys, tokens and passwords are used, and found nowhere: in no output, error, log, or byte of a dataset."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from fsspec.spec import AbstractFileSystem
from moto.core.authorization import enable_iam_authentication
from s3fs import S3FileSystem

from rtprune.dataset import Output, read_documents
from rtprune.documents import list_objects, read_object
from rtprune.errors import RTPruneError, StoreError, UsageError
from rtprune.store import create_if_absent, delete_many, filesystem, find, get, get_many, join, put
from tests.faults.conftest import BINARIES, CREDENTIALS, Cluster, free_port
from tests.faults.driver import stop_before_reading
from tests.faults.proof import assert_whole
from tests.faults.proxy import FaultyStore
from tests.sources import write_corpus, write_pdf

pytestmark = pytest.mark.slow

PASSWORD, WRONG, ENDPOINT = "planted-password-9a40", "planted-mistake-e88f", "planted-endpoint-31d6"
SECRETS = (*CREDENTIALS.values(), PASSWORD, WRONG, ENDPOINT)


def assert_no_secret(where: str, data: str | bytes) -> None:
    raw = data.encode(errors="backslashreplace") if isinstance(data, str) else data
    assert not [secret for secret in SECRETS if secret.encode() in raw], where


def spelt_out(output: str) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every object of a dataset, tables once more without compression."""
    for uri in find(output):
        data = get(uri)
        yield uri, data
        if uri.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(data))
            yield uri, repr((table.schema.metadata, table.to_pylist())).encode()


def logs(cluster: Cluster) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of what Ray, its workers and every driver so far have left on disk."""
    for folder in (cluster.scratch, cluster.folder):
        for path in folder.rglob("*"):
            with suppress(OSError):  # gone meanwhile
                if path.is_file():
                    yield str(path), path.read_bytes()


def assert_kept_secret(cluster: Cluster, output: str) -> None:
    """In the dataset and all logs; names that must be there are, so that the search sees what there is."""
    written, logged = list(spelt_out(output)), list(logs(cluster))
    for name, data in [*written, *logged]:
        assert_no_secret(name, data)
    assert any(b"document-00.pdf" in data for _, data in written)
    assert any("worker-" in name and b"Worker" in data for name, data in logged)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A document that anybody can read, and one with a password."""
    folder = write_corpus(tmp_path / "source", 1, 2)
    write_pdf(folder / "locked.pdf", 2, "behind a lock", password=PASSWORD)
    return folder


def test_a_run_that_succeeds_keeps_its_secrets(cluster: Cluster, bucket: str, source: Path) -> None:
    """As a command of its own, which Ray sees with all its arguments."""
    for path in source.iterdir():
        put(join(bucket, "in", path.name), path.read_bytes())
    flags = ["--model", "none", "--ray-address", cluster.address, "--password", PASSWORD]
    done = subprocess.run(
        [str(BINARIES / "rtprune"), "run", *flags, join(bucket, "in"), join(bucket, "out")],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert assert_whole(join(bucket, "out")) == {"skipped": 4}, "the password opened what it opens"
    assert_no_secret("printed", done.stdout + done.stderr)
    assert_kept_secret(cluster, join(bucket, "out"))


def test_a_wrong_password_is_not_told(cluster: Cluster, source: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    ended = cluster.run(str(source), output, "--password", WRONG)
    assert ended.code == 0, ended.complained
    (row,) = (row for row in read_documents(Output.existing(output)).to_pylist() if row["status"] == "failed")
    assert row["reason"] == "encrypted"
    stopped = cluster.run(str(source), output, before=stop_before_reading, RTPRUNE_PASSWORD=PASSWORD)
    assert stopped.code == 128 + 2, stopped.complained
    refused = cluster.run(str(source), output, RTPRUNE_PASSWORD=WRONG)
    assert refused.code == 2
    assert "opened with another password" in refused.complained
    for each in (ended, stopped, refused):
        assert_no_secret("printed", each.said + each.complained)
    assert_kept_secret(cluster, output)


def test_a_store_that_is_away_or_refuses_is_named_without_what_was_shown_to_it(
    cluster: Cluster, faulty_store: FaultyStore, bucket: str, source: Path, tmp_path: Path
) -> None:
    put(join(bucket, "in", "document-00.pdf"), (source / "document-00.pdf").read_bytes())
    output = tmp_path / "out"
    away = f"http://user:{ENDPOINT}@127.0.0.1:{free_port()}"
    there = faulty_store.endpoint.replace("http://", f"http://user:{ENDPOINT}@")
    for endpoint in (away, there):
        ended = cluster.run(join(bucket, "in"), str(output), AWS_ENDPOINT_URL=endpoint, RTPRUNE_PASSWORD=PASSWORD)
        assert ended.code in (1, 2)
        assert ended.complained.count("\n") == 1
        assert "AWS_ENDPOINT_URL" in ended.complained
        assert_no_secret(endpoint, ended.said + ended.complained)
    with enable_iam_authentication():
        refused = cluster.run(join(bucket, "in"), str(output), RTPRUNE_PASSWORD=PASSWORD)
    assert refused.code == 2
    assert "was refused" in refused.complained
    assert_no_secret("refused", refused.said + refused.complained)
    assert not output.exists()


@pytest.fixture(params=["away", "refusing"])
def bad_store(request: pytest.FixtureRequest, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URI of a prefix in a store to which this process shows secrets in vain."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    if request.param == "away":
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{ENDPOINT}@127.0.0.1:{free_port()}")
    S3FileSystem.clear_instance_cache()
    if request.param == "away":
        yield join(bucket, "x")
    else:
        with enable_iam_authentication():
            yield join(bucket, "x")
    S3FileSystem.clear_instance_cache()


def impatient(*unused: object) -> AbstractFileSystem:
    """A store that is asked once."""
    once = {"retries": {"total_max_attempts": 1, "mode": "standard"}}
    return fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True, config_kwargs=once)


@pytest.mark.parametrize(
    "ask",
    [
        get,
        find,
        read_object,
        Output.existing,
        lambda uri: put(uri, b""),
        lambda uri: create_if_absent(uri, b""),
        lambda uri: get_many([uri]),
        lambda uri: delete_many([uri]),
        lambda uri: list(list_objects(uri)),
        lambda uri: Output.open(uri, {}),
    ],
)
def test_errors_of_the_store_tell_no_secret(
    ask: Callable[[str], object], bad_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    monkeypatch.setattr(filesystem, "_object_store", impatient)
    with pytest.raises(RTPruneError) as caught:
        ask(bad_store)
    assert isinstance(caught.value, StoreError | UsageError)
    assert_no_secret("the error", f"{caught.value} {caught.value!r}")
