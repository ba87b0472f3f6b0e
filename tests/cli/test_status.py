"""``rtprune status`` beside a run that works, and after it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rtprune.cli import main
from rtprune.corpus.run import run_corpus
from rtprune.corpus.values import Progress
from rtprune.dataset import Output, done_units
from tests.sources import quick_settings, write_corpus


@pytest.mark.usefixtures("local_ray")
def test_it_follows_a_run_from_its_output_alone(
    tmp_path: Path, random_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write_corpus(tmp_path / "source", documents=6, pages=2), tmp_path / "out"
    seen = []

    def look(progress: Progress) -> None:
        if progress.stage == "read" and not seen and done_units(Output.existing(str(out))):
            assert main(["status", str(out), "--json"]) == 0
            seen.append(json.loads(capsys.readouterr().out))

    settings = quick_settings(random_checkpoint, unit_pages=1, batch_pages=1, workers=1)
    run_corpus(str(source), str(out), settings, on_progress=look)
    (during,) = seen
    (run,) = during["runs"]
    assert (run["status"], run["at_work"], run["ended_at"]) == ("running", True, None)
    assert during["planned_pages"] == 12
    assert 0 < run["pages"] == 12 - during["pages_left"]
    assert run["pages_per_second"] > 0

    assert main(["status", str(out)]) == 0
    after = capsys.readouterr().out
    assert "pages             12 of 12 planned (100.0 %)\n" in after
    assert "runs              1 ended\n" in after
    assert f"{run['run_id']} finished " in after
    assert main(["status", str(out), "--watch"]) == 0, "no run is at work: it looks once"
    assert "runs              1 ended\n" in capsys.readouterr().out


def test_where_there_is_no_dataset_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "there is no dataset at" in capsys.readouterr().err
