"""The flow gives what the command line gives, and shows what it saved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.ocr_corpus import ocr_corpus
from rtprune.dataset import Output, PlanLog
from rtprune.errors import ModelError, StoreError
from rtprune.store import join
from tasks.publish import SAVINGS
from tests.corpus import assert_complete, quick_settings, write_corpus


@pytest.fixture(scope="module", autouse=True)
def prefect_server() -> Iterator[None]:
    """A throw-away Prefect server and database."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


def parameters(checkpoint: Path) -> dict[str, Any]:
    given = quick_settings(checkpoint, workers=1).model_dump(exclude_unset=True)
    del given["batch_pages"]
    return given


def savings() -> list[dict[str, Any]]:
    import json

    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[SAVINGS])))
    latest = max(found, key=lambda artifact: artifact.created)
    rows: list[dict[str, Any]] = json.loads(str(latest.data))
    return rows


def test_flow_reads_publishes_shows_the_savings_and_does_nothing_twice(tmp_path: Path, random_checkpoint: Path) -> None:
    source = write_corpus(tmp_path / "source", documents=3, pages=2)
    out = str(tmp_path / "out")
    summary = ocr_corpus(str(source), out, **parameters(random_checkpoint))
    assert (summary.status, summary.tally.pages) == ("finished", 6)
    assert_complete(out)
    run, dataset = savings()
    assert run["pages"] == dataset["pages"] == 6
    assert run["visual tokens before"] == 6 * 73
    assert run["visual tokens after"] == summary.tally.tokens_after

    again = ocr_corpus(str(source), out, **parameters(random_checkpoint))
    assert again.status == "nothing to do"
    run, dataset = savings()
    assert (run["pages"], dataset["pages"]) == (0, 6)


def test_flow_and_driver_plan_the_same_units_under_the_same_configuration(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rtprune.cluster import steps

    source = write_corpus(tmp_path / "source", documents=2, pages=3)
    run = steps.prepare(str(source), str(tmp_path / "direct"), quick_settings(random_checkpoint, workers=1))
    found = steps.discover(run)
    with steps.in_progress(run, found):
        planned = steps.plan(run, found)
    ocr_corpus(str(source), str(tmp_path / "flow"), **parameters(random_checkpoint))
    flow = Output.existing(str(tmp_path / "flow"))
    assert flow.config == found.output.config
    assert [unit.unit_id for unit in PlanLog(flow).units] == [unit.unit_id for unit in planned.units]


def test_store_that_fails_once_is_asked_again(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rtprune.cluster import steps
    from tasks import retries
    from tasks.discover import discover

    asked: list[str] = []
    real = steps.list_objects

    def failing(source: str) -> Any:
        asked.append(source)
        if len(asked) == 1:
            raise StoreError("the store did not answer")
        return real(source)

    monkeypatch.setattr(steps, "list_objects", failing)
    monkeypatch.setattr(steps, "plan", lambda run, found: pytest.fail("not needed here"))
    run = steps.prepare(
        str(write_corpus(tmp_path / "source", 1, 1)), join(str(tmp_path), "out"), quick_settings(random_checkpoint)
    )
    assert retries.STEP["retries"] > 0
    found = discover.with_options(retry_delay_seconds=0)(run)
    assert len(asked) == 2
    assert found.objects == 1


def test_wrong_use_fails_at_once_with_the_hint(tmp_path: Path, random_checkpoint: Path) -> None:
    source = write_corpus(tmp_path / "source", documents=1, pages=1)
    with pytest.raises(ModelError, match="--model mini"):
        ocr_corpus(str(source), str(tmp_path / "out"), model="/no/such/folder")
    with pytest.raises(ValueError, match="workers"):
        ocr_corpus(str(source), str(tmp_path / "out"), model=str(random_checkpoint), workers=0)


def test_no_parameter_asks_for_a_password() -> None:
    assert "password" not in ocr_corpus.parameters.properties
