"""What every test may use: the shared data folder and an object store on loopback."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Test files run beside one another, so cores are shared. These are read as torch and Ray are imported or started:
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that spins for another takes the other's core
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's workers would wait for all that runs beside them

settings.register_profile("same every time", derandomize=True, deadline=None, database=None)
settings.load_profile("same every time")

REPOSITORY = Path(__file__).resolve().parents[1]


#: Fixtures that start servers of many processes. A test that uses one is slow, however little it does there.
SERVERS = {"local_ray", "prefect_server", "cluster"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that none of them is left to run alone at the end."""
    for item in items:
        if SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real pages and broken files that are not part of the project (their licences differ)."""
    folder = Path(os.environ.get("RTPRUNE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared test data at {folder}: set RTPRUNE_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def store_endpoint() -> Iterator[str]:
    """Endpoint of an S3-compatible server on loopback; the standard AWS variables point to it meanwhile."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in before:
        del os.environ[name]
    os.environ.update(
        AWS_ENDPOINT_URL=endpoint,
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
        AWS_DEFAULT_REGION="us-east-1",
        NO_PROXY="127.0.0.1,localhost",
        no_proxy="127.0.0.1,localhost",
    )
    yield endpoint
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(before)
    server.stop()


@pytest.fixture
def bucket(store_endpoint: str) -> str:
    """``s3://`` URI of a fresh, empty bucket."""
    import boto3

    name = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=store_endpoint).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def local_ray(store_endpoint: str) -> Iterator[None]:
    """A running Ray with 2 logical CPUs whose workers know the store; runs in this process use it."""
    import ray

    from rtprune.corpus.ray_cluster import start_local

    start_local(cpus=2)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random model in the published layout, with a character tokenizer. Not to be written to."""
    from tests.checkpoints import write_random_checkpoint

    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint"))
