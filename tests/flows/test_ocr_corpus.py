"""The flow gives what the command line gives, and shows what it saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.exceptions import ParameterTypeError

from flows.ocr_corpus import ocr_corpus
from rtprune.corpus import run as steps
from rtprune.corpus.run import run_corpus
from rtprune.errors import ModelError, StoreError
from rtprune.store import join
from tasks.discover import discover
from tasks.publish import SAVINGS
from tests.faults.sabotage import Strange
from tests.processes import wait_until
from tests.sources import assert_complete, quick_settings, write_corpus, write_pdf

pytestmark = pytest.mark.usefixtures("prefect_server", "local_ray")


def parameters(checkpoint: Path) -> dict[str, Any]:
    given = quick_settings(checkpoint, workers=1).model_dump(exclude_unset=True)
    del given["batch_pages"]
    return given


def savings() -> list[dict[str, Any]]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[SAVINGS])))
    latest = max(found, key=lambda artifact: artifact.created)
    rows: list[dict[str, Any]] = json.loads(str(latest.data))
    return rows


def logged(message: str) -> list[str]:
    """Messages of flow runs in the server's log that have ``message`` in them."""
    with get_client(sync_client=True) as client:
        return [log.message for log in client.read_logs(limit=200) if message in log.message and log.flow_run_id]


def test_flow_reads_shows_savings_and_warnings_and_leaves_nothing_for_flow_or_driver(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "Worker", Strange)
    source = write_corpus(tmp_path / "source", documents=3, pages=2)
    out = str(tmp_path / "out")
    summary = ocr_corpus(str(source), out, **parameters(random_checkpoint))
    assert (summary.status, summary.tally.pages) == ("finished", 6)
    assert_complete(out)
    run, dataset = savings()
    assert run["pages"] == dataset["pages"] == 6
    assert run["visual tokens before"] == 6 * 73
    assert run["visual tokens after"] == summary.tally.tokens_after
    wait_until(lambda: logged("6 of 6 pages"), "the log to arrive")
    assert logged("strange") == ["worker 1: this page is strange"]

    again = ocr_corpus(str(source), out, **parameters(random_checkpoint))
    assert again.status == "nothing to do"
    run, dataset = savings()
    assert (run["pages"], dataset["pages"]) == (0, 6)
    assert run_corpus(str(source), out, quick_settings(random_checkpoint)).status == "nothing to do"


def test_flow_of_which_too_much_failed_ends_as_failed(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "source", documents=1, pages=1)
    damaged = write_pdf(source / "damaged.pdf", 1)
    damaged.write_bytes(damaged.read_bytes()[:200])
    given: Any = {"model": "none", "workers": 1, "max_failed": "0"}
    state = ocr_corpus(str(source), str(tmp_path / "out"), **given, return_state=True)
    assert state.is_failed()
    assert state.message == "1 of 2 documents failed, more than the 0 that may (--max-failed)"
    assert_complete(str(tmp_path / "out"))


def test_store_that_fails_once_is_asked_again(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = steps.list_objects

    def failing(source: str) -> Any:
        asked.append(source)
        if len(asked) == 1:
            raise StoreError("the store did not answer")
        return real(source)

    monkeypatch.setattr(steps, "list_objects", failing)
    run = steps.prepare(
        str(write_corpus(tmp_path / "source", 1, 1)), join(str(tmp_path), "out"), quick_settings(random_checkpoint)
    )
    found = discover.with_options(retry_delay_seconds=0)(run)
    assert len(asked) == 2, "the step was not tried again"
    assert found.objects == 1


def test_wrong_use_fails_at_once_with_the_hint(tmp_path: Path, random_checkpoint: Path) -> None:
    source = write_corpus(tmp_path / "source", documents=1, pages=1)
    with pytest.raises(ModelError, match="--model mini"):
        ocr_corpus(str(source), str(tmp_path / "out"), model="/no/such/folder")
    with pytest.raises(ParameterTypeError, match="workers"):
        ocr_corpus(str(source), str(tmp_path / "out"), model=str(random_checkpoint), workers=0)


def test_no_parameter_asks_for_a_password() -> None:
    assert "password" not in ocr_corpus.parameters.properties
