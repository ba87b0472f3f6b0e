"""The upkeep flow does what the command does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError

from flows.compact_dataset import compact_dataset
from rtprune.dataset import Output, commit_unit
from rtprune.errors import StoreError, UsageError
from tasks import compact as compact_task
from tests.dataset.samples import CONFIG, check_exactly_once, document, plan, rows_of

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_flow_compacts_tries_again_when_the_store_fails_and_has_nothing_to_do_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = [document("a", 5), document("b", 3)]
    output = Output.open(str(tmp_path / "out"), CONFIG)
    for unit in plan(output, corpus, unit_pages=2, run_id="r1"):
        commit_unit(output, unit, rows_of(unit), "r1")
    real, asked = compact_task.compact_dataset, []

    def failing(given: Output, **options: Any) -> Any:
        asked.append(options["target"])
        if len(asked) == 1:
            raise StoreError("the store did not answer")
        return real(given, **options)

    monkeypatch.setattr(compact_task, "compact_dataset", failing)
    monkeypatch.setattr(compact_task.compact, "retry_delay_seconds", 0)
    done = compact_dataset(output.uri, target_mb=64)
    assert asked == [64_000_000] * 2
    assert (done.replaced, done.made) == (5, 1)
    check_exactly_once(output, corpus)
    assert not compact_dataset(output.uri).changed
    assert asked[-1] == 128_000_000


def test_wrong_use_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dataset"):
        compact_dataset(str(tmp_path / "nothing"))
    with pytest.raises(ParameterTypeError, match="target_mb"):
        compact_dataset(str(tmp_path / "nothing"), target_mb=0)
