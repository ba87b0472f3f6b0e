"""What the commands that look after a dataset print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rtprune.cli import main
from rtprune.dataset import Output, Verdict, commit_unit, compact_dataset
from rtprune.dataset.findings import Finding, Findings
from rtprune.report.upkeep import verdict_summary
from rtprune.report.wording import size
from rtprune.store import delete, find, join
from tests.dataset.samples import CONFIG, document, plan, planned_units, rows_of

NOTHING = Findings((), {})
SOUND = Verdict(False, 3, 5, 1_200, 1_200, 0, 0, NOTHING, NOTHING)


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """Three units, read."""
    output = Output.open(str(tmp_path / "out"), CONFIG)
    for unit in plan(output, [document("a", 6)], unit_pages=2, run_id="r1"):
        commit_unit(output, unit, rows_of(unit), "r1")
    return output


def test_compaction_tells_files_before_and_after_and_then_that_nothing_is_left_to_do(
    output: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compact", output.uri, "--target-mb", "64"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "3 small files compacted into 1"
    assert printed[1].split(maxsplit=1) == ["files", "3 -> 1"]
    assert printed[2].endswith(" kB")
    assert printed[3].split() == ["dataset", output.uri]
    assert main(["compact", output.uri]) == 0
    assert capsys.readouterr().out.startswith("nothing to compact: of 1 file ")


def test_compaction_says_what_it_cleared_away(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    compact_dataset(output)
    unit = planned_units(output)[0]
    commit_unit(output, unit, rows_of(unit), "late")
    assert main(["compact", output.uri]) == 0
    assert "deleted           1 file that" in capsys.readouterr().out


def test_verification_of_a_sound_dataset_ends_with_0_unless_completeness_is_asked_for(
    output: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", output.uri, "--complete"]) == 0
    assert capsys.readouterr().out.endswith("every planned page is in exactly one row\n")
    plan(output, [document("b", 3)], unit_pages=2, run_id="r2")
    assert main(["verify", output.uri, "--quick"]) == 0
    printed = capsys.readouterr().out
    assert "not read yet      3 pages in 2 units" in printed
    assert printed.endswith("every page read so far is in exactly one row\n")
    assert main(["verify", output.uri, "--complete"]) == 1


def test_verification_that_finds_something_ends_with_1_and_names_it(
    output: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    compact_dataset(output)
    (file,) = find(join(output.uri, "pages"))
    delete(file)
    assert main(["verify", output.uri]) == 1
    printed = capsys.readouterr().out
    assert "error             missing-file: 1" in printed
    assert f"  {file}: " in printed
    assert printed.endswith("1 error: this dataset does not keep its promise\n")
    assert main(["verify", output.uri, "--json"]) == 1
    values = json.loads(capsys.readouterr().out)
    assert (values["sound"], values["dataset"]) == (False, output.uri)
    assert values["errors"]["totals"] == {"missing-file": 1}
    assert values["errors"]["kept"][0]["where"] == file


def test_what_is_harmless_is_told_apart_and_what_is_too_much_counted() -> None:
    leftover = Finding("leftover", join("out", "x.parquet"), "nobody's")
    verdict = Verdict(True, 3, 5, 1_200, 1_200, 0, 0, NOTHING, Findings((leftover,), {"leftover": 38}))
    lines = verdict_summary("out", verdict).splitlines()
    assert lines[1] == "files             3, checked by their size, rows and columns"
    assert lines[2] == "pages             1,200 planned, 1,200 of them in one row"
    assert lines[3:6] == ["harmless          leftover: 38", "  out/x.parquet: nobody's", "  ... and 37 more"]
    assert lines[6] == "every planned page is in exactly one row"
    assert "checked by their bytes" in verdict_summary("out", SOUND)


@pytest.mark.parametrize("command", ["compact", "verify"])
def test_no_dataset_is_wrong_use(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(tmp_path)]) == 2
    assert "there is no dataset" in capsys.readouterr().err


def test_target_out_of_bounds_is_wrong_use(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compact", output.uri, "--target-mb", "0"]) == 2
    assert "choose 1 to 1024" in capsys.readouterr().err


def test_sizes_are_those_that_people_read() -> None:
    assert [size(number) for number in (1, 999, 1_000, 999_999, 128_000_000, 1_204_000_000)] == [
        *("1 byte", "999 bytes", "1.0 kB", "1,000.0 kB", "128.0 MB", "1,204.0 MB"),
    ]
