"""Each lack is found and told with what to do; nothing is changed."""

from __future__ import annotations

import http.server
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import rtprune
from rtprune import doctor
from rtprune.dataset import Output
from rtprune.doctor import Check, examine
from rtprune.settings import RunSettings
from rtprune.store import find
from tests.dataset.samples import CONFIG

MINI = RunSettings(model="mini")


def check(name: str, settings: RunSettings = MINI, output: str | None = None) -> Check:
    (found,) = [each for each in examine(settings, output) if each.name == name]
    assert (found.state == "ok") == (found.advice is None)
    return found


@pytest.fixture
def silent_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def api() -> Iterator[str]:
    """An address where /api/health answers."""

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/health" else 404)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


def test_what_the_built_in_model_needs_is_here() -> None:
    found = {each.name: each for each in examine(MINI)}
    for name in ("python", "variables", "model", "memory", "renderer", "ray", "prefect"):
        assert found[name].state == "ok", found[name]
    assert "8 M parameters, mode tiny" in found["model"].found
    assert "output" not in found


def test_a_model_that_is_not_here_is_a_warning_and_one_that_cannot_be_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    unknown = check("memory", RunSettings(model="somebody/something"))
    assert (unknown.state, "is not known" in unknown.found) == ("warning", True)
    assert check("memory", RunSettings(model="s3://somewhere/model")).state == "warning"
    assert check("memory", RunSettings(model="none")).state == "ok"
    away = check("model", RunSettings(model="somebody/something"))
    assert (away.state, "not on this machine" in away.found) == ("warning", True)
    commit = "0" * 40
    snapshot = tmp_path / "models--somebody--something" / "snapshots" / commit
    shutil.copytree(Path(rtprune.__file__).parent / "mini" / "weights", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    assert "8 M parameters" in check("model", RunSettings(model="somebody/something")).found
    assert check("model", RunSettings(model="nowhere")).state == "problem"
    (tmp_path / "empty").mkdir()
    assert check("model", RunSettings(model=str(tmp_path / "empty"))).state == "problem"


def test_memory_that_does_not_hold_the_model_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtprune.engine.budget.free_bytes", lambda device: 2**28)
    found = check("memory")
    assert (found.state, found.found) == ("problem", "0.2 GiB free")
    assert "mini takes about 2.0 GiB" in str(found.advice)


def test_a_misspelt_variable_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTPRUNE_MODLE", "mini")
    found = check("variables")
    assert (found.state, found.found) == ("problem", "RTPRUNE_MODLE is no setting")


def test_a_cluster_that_was_named_has_to_answer(monkeypatch: pytest.MonkeyPatch, silent_port: int) -> None:
    assert check("ray", RunSettings(model="mini", ray_address=f"ray://127.0.0.1:{silent_port}")).state == "problem"
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent_port}")
    assert check("ray").state == "problem"
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:abc")
    assert "is no address" in check("ray").found
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        assert check("ray").state == "ok"


def test_an_api_that_does_not_answer_is_a_warning(monkeypatch: pytest.MonkeyPatch, api: str, silent_port: int) -> None:
    monkeypatch.setenv("PREFECT_API_URL", api)
    assert check("prefect").state == "ok"
    for wrong in (f"{api}/elsewhere", f"http://127.0.0.1:{silent_port}/api", "no-url"):
        monkeypatch.setenv("PREFECT_API_URL", wrong)
        assert check("prefect").state == "warning", wrong


def test_the_api_of_a_profile_is_the_one_that_is_asked(
    monkeypatch: pytest.MonkeyPatch, api: str, tmp_path: Path
) -> None:
    profiles = tmp_path / "profiles.toml"
    profiles.write_text(f'active = "far"\n[profiles.far]\nPREFECT_API_URL = "{api}/elsewhere"\n')
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(profiles))
    found = check("prefect")
    assert (found.state, f"{api}/elsewhere answers 404" in found.found) == ("warning", True)


def test_little_room_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=2**50, free=2**20))
    assert (check("disk").state, check("shared memory").state) == ("warning", "warning")


def test_an_output_is_tried_and_left_as_it_was(tmp_path: Path, bucket: str) -> None:
    for place in (str(tmp_path / "out"), f"{bucket}/out"):
        assert "no dataset yet" in check("output", output=place).found
    assert (list(tmp_path.iterdir()), find(bucket)) == ([], [])
    Output.open(f"{bucket}/out", CONFIG)
    before = find(bucket)
    assert "a dataset read by" in check("output", output=f"{bucket}/out").found
    assert find(bucket) == before


def test_an_output_of_an_earlier_format_is_a_problem(tmp_path: Path) -> None:
    Output.open(str(tmp_path), CONFIG)
    place = tmp_path / "_rtprune" / "config.json"
    place.write_text(place.read_text().replace('"1.0"', '"0.9"'))
    found = check("output", output=str(tmp_path))
    assert (found.state, "0.9" in found.found) == ("problem", True)


def test_an_output_that_cannot_be_written_to_is_a_problem(tmp_path: Path, bucket: str) -> None:
    (tmp_path / "file").write_text("")
    for place in (str(tmp_path / "file" / "out"), f"{bucket}-that-is-not-there/out"):
        assert check("output", output=place).state == "problem"


def test_whatever_a_check_raises_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def torn() -> Check:
        raise ImportError("no library")

    monkeypatch.setattr(doctor, "renderer", torn)
    found = check("renderer")
    assert (found.state, found.found) == ("problem", "ImportError: no library")
