"""olmOCR-bench's verdicts, fact by fact, against those of its own program, and its rules worked by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rtprune.errors import UsageError
from rtprune.evaluation.facts import Fact, check
from rtprune.evaluation.formulas import Glyph, KatexBrowser, SetFormula, contains, formulas_in
from rtprune.evaluation.olmocr import FactScore, interval, load_bench, score_facts, total

for library in ("rapidfuzz", "fuzzysearch", "bs4", "lxml"):
    pytest.importorskip(library, reason="the extra rtprune[eval] is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[KatexBrowser | None]:
    found = KatexBrowser.found()
    if found is None:
        yield None
        return
    with found:
        yield found


@pytest.fixture(scope="module")
def scored(shared_data: Path, browser: KatexBrowser | None) -> dict[str, FactScore]:
    bench = load_bench(shared_data / "pages")
    assert not bench.faulty
    return {each.fact.id: each for each in score_facts(bench, shared_data / "pages" / "olmocr-answers", browser)}


@pytest.fixture(scope="module")
def published(shared_data: Path) -> list[dict[str, str]]:
    with (shared_data / "eval" / "olmocr_facts.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_verdict_and_figure_is_the_published_one(
    scored: dict[str, FactScore], published: list[dict[str, str]]
) -> None:
    assert set(scored) == {row["id"] for row in published}
    for row in published:
        ours = scored[row["id"]]
        assert ours.fact.kind == row["type"]
        if ours.passed is None:
            assert ours.fact.kind == "math"
            continue
        assert ours.passed == (row["passed"] == "true"), row["id"]
        if row["explanation"].startswith("ratio"):
            _, ratio, _, threshold = row["explanation"].split()
            assert ours.ratio == pytest.approx(float(ratio), abs=1e-9)
            assert ours.threshold == pytest.approx(float(threshold), abs=1e-9)
        elif not ours.passed:
            assert ours.note == row["explanation"]


def test_formulas_are_found_the_published_way(scored: dict[str, FactScore], published: list[dict[str, str]]) -> None:
    if any(each.passed is None for each in scored.values()):
        pytest.skip("no Chromium, or no KaTeX (package olmocr), to set formulas with")
    ways = {row["id"]: row["explanation"] for row in published if row["type"] == "math"}
    assert {name: scored[name].note for name in ways} == ways


def test_the_totals_are_the_published_ones(shared_data: Path, scored: dict[str, FactScore]) -> None:
    if any(each.passed is None for each in scored.values()):
        pytest.skip("no Chromium, or no KaTeX (package olmocr), to set formulas with")
    expected = json.loads((shared_data / "eval" / "olmocr_totals.json").read_text())
    ours = total(list(scored.values()))
    assert ours.score == pytest.approx(expected["score_mean_over_files"], abs=1e-9)
    assert {kind: {"passed": p, "of": n} for kind, (p, n) in ours.by_kind.items()} == expected["by_type"]
    assert {name: (each["passed"], each["of"]) for name, each in expected["by_file"].items()} == ours.by_file
    assert ours.low is not None
    assert ours.low < ours.score < ours.high
    assert not ours.missing + ours.errors + ours.unjudged


def fact(kind: str, **fields: Any) -> Fact:
    return Fact("a.pdf", 1, "a", kind, "facts.jsonl", fields)


@pytest.mark.parametrize(
    ("one", "answer", "passed"),
    [
        (fact("present", text="hello world and more"), "hello", True),  # the shorter is sought in the longer
        (fact("present", text="snake_case_name"), "so snakecasename it is", True),
        (fact("present", text="one two"), "one **two**", True),
        (fact("present", text="one two"), "one twx", False),
        (fact("present", text="one two", max_diffs=1), "one twx", True),
        (fact("present", text="One", case_sensitive=False), "ONE more", True),
        (fact("present", text="tail", first_n=5), "head and tail", False),
        (fact("present", text="tail", last_n=5), "head and tail", True),
        (fact("absent", text="Page 3"), "text", True),
        (fact("absent", text="Page 3"), "text Page 3", False),
        (fact("order", before="one", after="two"), "one two", True),
        (fact("order", before="one", after="two"), "two one", False),
        (fact("order", before="one", after="two"), "two one two", True),
        (fact("order", before="one", after="two"), "one", False),
        (fact("baseline"), "text", True),
        (fact("baseline"), " - * ", False),
        (fact("baseline"), "text 中", False),
        (fact("baseline", check_disallowed_characters=False), "text 中", True),
        (fact("baseline"), "a rule " + 30 * "-", True),
        (fact("baseline"), "a rule " + 31 * "-", False),
        (fact("baseline", max_length=3), "![four](x.png)", False),
        (fact("baseline", max_length=3, max_length_skips_image_alt_tags=True), "![four](x.png)", True),
        (fact("table", cell="2", left="1", top_heading="B"), "|A|B|\n|-|-|\n|1|2|", True),
        (fact("table", cell="2", left="7"), "|A|B|\n|-|-|\n|1|2|", False),
        (fact("table", cell="1", left="nothing there"), "|A|B|\n|-|-|\n|1|2|", True),  # beyond the edge
        (fact("table", cell="2", left_heading="1"), "|A|B|\n|-|-|\n|1|2|", True),
        (fact("table", cell="ab", max_diffs=2), "|A|B|\n|-|-|\n|xy|2|", False),  # never less alike than a half
        (fact("table", cell="2"), "no table", False),
        (fact("table", cell="2", ignore_markdown_tables=True), "|A|B|\n|-|-|\n|1|2|", False),
        (
            fact("table", cell="4", top_heading="wide", left_heading="tall"),
            "<table><tr><th rowspan=3>tall</th><th colspan=2>wide</th></tr><tr><td>1</td><td>2</td></tr>"
            "<tr><td>3</td><td>4</td></tr></table>",
            True,
        ),
        (fact("math", math="x^2"), r"so \( x^2 \) holds", True),
    ],
)
def test_a_rule(one: Fact, answer: str, passed: bool) -> None:
    assert check(one, answer, None).passed is passed


def test_formulas_are_those_between_known_marks() -> None:
    answer = r"\(a\) $$b$$ $c$ \[d\] \begin{equation}e\end{equation}"
    assert list(formulas_in(answer)) == ["a", "d", "b", "c"]
    assert list(formulas_in(answer, dollars=False)) == ["a", "d"]


def row(text: str, y: float = 0.0) -> list[Glyph]:
    return [Glyph(each, 20.0 * number, y) for number, each in enumerate(text)]


@pytest.mark.parametrize(
    ("page", "true", "way"),
    [
        (SetFormula("abc", []), SetFormula("b", []), "by mathml"),
        (SetFormula("1", row("a+b=c")), SetFormula("2", row("a+b")), "by spans"),  # a longer one contains it
        (SetFormula("1", row("a+b")), SetFormula("2", row("a+b=c")), ""),
        (SetFormula("1", row("b+a")), SetFormula("2", row("a+b")), ""),
        (SetFormula("1", row("aa-b")), SetFormula("2", row("a-b")), "by spans"),
        (SetFormula("1", row("x") + row("2", -30.0)), SetFormula("2", row("x2")), ""),
    ],
)
def test_one_formula_contains_another(page: SetFormula, true: SetFormula, way: str) -> None:
    assert contains(page, true) == way


def written(folder: Path, *facts: dict[str, Any]) -> Path:
    (folder / "pdfs").mkdir(parents=True)
    (folder / "pdfs" / "a.pdf").write_bytes(b"")
    (folder / "facts.jsonl").write_text("\n".join(json.dumps(each) for each in facts))
    return folder


def test_what_is_missing_or_unknown_is_listed_and_never_a_success(tmp_path: Path) -> None:
    about = {"pdf": "a.pdf", "page": 1}
    bench = load_bench(
        written(
            tmp_path / "bench",
            {**about, "id": "1", "type": "present", "text": "one"},
            {**about, "id": "2", "type": "absent", "text": "two"},
            {**about, "id": "3", "type": "colour"},
            {**about, "id": "3", "type": "colour"},
            {"id": "4", "type": "present", "text": "one"},
            {**about, "id": "5", "type": "order", "before": "x", "after": ""},
        )
    )
    assert [line.split(":")[1] for line in bench.faulty] == ["4", "5"]
    (tmp_path / "bench" / "other.jsonl").write_text("[1]\n")
    assert [line.split(":")[0] for line in load_bench(tmp_path / "bench").faulty] == ["facts.jsonl"] * 2 + [
        "other.jsonl"
    ]
    missing = total(list(score_facts(bench, tmp_path, None)))
    assert missing.score == 0.0
    assert missing.missing == ["a.pdf page 1"]
    assert [line.partition(":")[0] for line in missing.unjudged] == ["3"]
    (tmp_path / "a.md").write_text("one")
    found = total(list(score_facts(bench, tmp_path, None)))
    assert found.by_file == {"facts.jsonl": (2, 3), "baseline": (1, 1)}
    assert [line.partition(":")[0] for line in found.errors] == ["5"]
    assert found.score == pytest.approx((2 / 3 + 1) / 2)


def test_a_fact_passes_with_more_than_half_of_the_repeats(tmp_path: Path) -> None:
    bench = load_bench(
        written(tmp_path / "bench", {"pdf": "a.pdf", "page": 1, "id": "1", "type": "present", "text": "one"})
    )
    for number, text in enumerate(("one", "two"), start=1):
        (tmp_path / f"a_pg1_repeat{number}.md").write_text(text)
    assert [each.passed for each in score_facts(bench, tmp_path, None)] == [False, True]
    (tmp_path / "a_pg1_repeat3.md").write_text("one")
    assert [each.passed for each in score_facts(bench, tmp_path, None)] == [True, True]


def test_a_folder_without_facts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no facts"):
        load_bench(tmp_path)


def test_the_interval_is_repeatable_and_holds_the_mean() -> None:
    groups = [[1.0, 0.0, 1.0, 1.0], [1.0] * 3]
    assert interval(groups, seed=1) == interval(groups, seed=1)
    low, high = interval(groups, seed=1)
    assert low is not None
    assert 0.5 < low < 0.875 < high <= 1.0
