"""What a store's latency costs is measured through a relay that really brings calls late."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time

import pytest

from rtprune.bench.latency import Relay, bench_latency, report
from rtprune.errors import UsageError


def test_the_relay_carries_everything_and_only_what_is_sent_comes_late() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def echo() -> None:
            connection, _ = listening.accept()
            with connection:
                while data := connection.recv(1000):
                    connection.sendall(data)

        threading.Thread(target=echo, daemon=True).start()
        relay = Relay("127.0.0.1", listening.getsockname()[1])
        relay.delay_s = 0.2
        host, port = relay.endpoint.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            began = time.monotonic()
            client.sendall(b"x" * 100_000)
            received = b""
            while len(received) < 100_000:
                received += client.recv(100_000)
        assert received == b"x" * 100_000
        assert time.monotonic() - began >= 0.2
        relay.close()


@pytest.mark.parametrize("store", ["/a/folder", "s3://bucket/prefix"])
def test_only_a_store_without_tls_is_measured(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://store.example")
    with pytest.raises(UsageError, match="without TLS"):
        bench_latency(store=store, documents=10, workers=1, delay_ms=50)


@pytest.mark.slow
def test_both_stages_are_measured_with_and_without_delay(bucket: str) -> None:
    asked = ["--store", bucket, "--documents", "80", "--delay-ms", "20", "--json"]
    ended = subprocess.run(
        [sys.executable, "-m", "rtprune", "bench", "pipeline", *asked], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    measured = json.loads(ended.stdout)
    assert measured["inspect"].keys() == measured["read"].keys() == {"0", "20"}
    assert measured["kept"]["read"] == pytest.approx(measured["read"]["20"] / measured["read"]["0"], rel=0.02)
    assert "20 ms later" in report(measured)
