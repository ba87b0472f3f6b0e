"""OmniDocBench's figures, pair by pair, against those of its own program, and its rules worked by hand."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from rtprune.errors import UsageError
from rtprune.evaluation.omnidocbench import score_page
from rtprune.evaluation.omnidocbench_total import ScoredPage, load_pages, page_figures, score_pages, totals

for library in ("rapidfuzz", "bs4", "lxml", "pylatexenc", "docling_metrics_table"):
    pytest.importorskip(library, reason="the extra rtprune[eval] is not installed")

EXACT = {"abs": 1e-9}
NAMES = {
    "text_block_edit": "text_edit",
    "display_formula_edit": "formula_edit",
    "table_edit": "table_edit",
    "table_teds": "table_teds",
    "table_teds_structure_only": "table_teds_structure",
    "reading_order_edit": "order_edit",
}


@pytest.fixture(scope="module")
def scored(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ScoredPage]:
    answers = tmp_path_factory.mktemp("answers")
    for file in (shared_data / "omnidocbench").glob("*.answer.md"):
        (answers / file.name.replace(".answer.md", ".md")).symlink_to(file)
    return {page.image: page for page in score_pages(load_pages(shared_data / "omnidocbench"), answers)}


def sha1(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()[:16]


def test_every_pair_is_the_published_one(scored: dict[str, ScoredPage], shared_data: Path) -> None:
    expected = defaultdict(list)
    for pair in json.loads((shared_data / "eval" / "omnidocbench_pairs.json").read_text()):
        expected[pair["page"]].append(pair)
    for image, pairs in expected.items():
        score = scored[image].score
        assert score is not None
        ours = {
            (pair.element, pair.true): (pair.predicted, sha1(pair.true_form), sha1(pair.predicted_form), pair.edits)
            for pair in score.pairs
        }
        theirs = {
            (pair["element"], tuple(pair["gt_idx"])): (
                tuple(number for number in pair["pred_idx"] if number is not None),
                pair["sha1_gt"],
                pair["sha1_pred"],
                pair["edit_num"],
            )
            for pair in pairs
            if pair["element"] != "reading_order"
        }
        assert ours == theirs
        order = next(pair for pair in pairs if pair["element"] == "reading_order")
        assert (score.true_order, score.found_order) == (order["gt"], order["pred"])


def test_every_figure_of_a_page_is_the_published_one(scored: dict[str, ScoredPage], shared_data: Path) -> None:
    with (shared_data / "eval" / "omnidocbench.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] in NAMES]
    assert len(rows) > 25
    for row in rows:
        score = scored[row["page"]].score
        assert score is not None
        assert page_figures(score)[NAMES[row["metric"]]] == pytest.approx(float(row["value"]), **EXACT)


def test_the_totals_are_the_published_ones(scored: dict[str, ScoredPage], shared_data: Path) -> None:
    headline = json.loads((shared_data / "eval" / "omnidocbench_totals.json").read_text())["headline"]
    ours = totals(list(scored.values()))
    for name, value in headline.items():
        if name.endswith("_page_avg"):
            assert ours[NAMES[name.removesuffix("_page_avg")]].value == pytest.approx(value, **EXACT)


def page(*blocks: dict[str, Any], relation: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    dets = [{"anno_id": number, "order": number, **block} for number, block in enumerate(blocks, start=1)]
    return {"layout_dets": dets, "extra": {"relation": relation or []}, "page_info": {"image_path": "a.jpg"}}


def text(content: str, category: str = "text_block") -> dict[str, Any]:
    return {"category_type": category, "text": content}


HTML = "<table><tr><td>a</td><td>b</td></tr><tr><td>c</td><td>d</td></tr></table>"
ONE, TWO, THREE = "The first paragraph here", "Another block of words", "Something else at the end"


def test_a_faultless_answer_has_no_edit() -> None:
    figures = page_figures(score_page(page(text(ONE), text(TWO)), f"{ONE}\n\n{TWO}"))
    assert (figures["text_edit"], figures["strict_text_edit"], figures["order_edit"]) == (0.0, 0.0, 0.0)
    assert figures["formula_edit"] is figures["table_teds"] is None


def test_surplus_counts_in_the_strict_figure_alone() -> None:
    invented = "Nobody ever wrote this sentence on the page"
    figures = page_figures(score_page(page(text(ONE), text(TWO)), f"{ONE}\n\n{TWO}\n\n{invented}"))
    assert figures["text_edit"] == 0.0
    letters = len(invented.replace(" ", ""))
    own = len((ONE + TWO).replace(" ", ""))
    assert figures["strict_text_edit"] == pytest.approx(letters / (letters + own))


def test_surplus_tables_count_in_the_strict_figure() -> None:
    table = "<table><tr><td>invented</td></tr></table>"
    figures = page_figures(score_page(page(text(ONE), text(TWO)), f"{ONE}\n\n{TWO}\n\n{table}"))
    assert figures["text_edit"] == 0.0
    assert figures["strict_text_edit"] == pytest.approx(8 / (8 + len((ONE + TWO).replace(" ", ""))))
    assert (figures["table_teds"], figures["strict_table_teds"]) == (None, 0.0)
    both = page(text(ONE), {"category_type": "table", "html": HTML})
    figures = page_figures(score_page(both, f"{ONE}\n\n{HTML}\n\n{table}"))
    assert (figures["table_teds"], figures["strict_table_teds"]) == (1.0, 0.5)


def test_a_missing_block_costs_its_length_and_order() -> None:
    figures = page_figures(score_page(page(text(ONE), text(TWO), text(THREE)), f"{ONE}\n\n{TWO}"))
    lengths = [len(each.replace(" ", "")) for each in (ONE, TWO, THREE)]
    assert figures["text_edit"] == pytest.approx(lengths[2] / sum(lengths))
    assert figures["order_edit"] == pytest.approx(1 / 3)


def test_headers_take_their_words_away_and_are_ignored() -> None:
    score = score_page(page(text("Chapter nine", "header"), text(ONE), text(TWO)), f"Chapter nine\n\n{ONE}\n\n{TWO}")
    assert page_figures(score)["strict_text_edit"] == 0.0
    assert score.true_order == [2, 3]


def test_three_chained_blocks_repeat_the_middle_one() -> None:
    relation = [
        {"relation_type": "truncated", "source_anno_id": 1, "target_anno_id": 2},
        {"relation_type": "truncated", "source_anno_id": 2, "target_anno_id": 3},
    ]
    figures = page_figures(
        score_page(page(text("aaaa"), text("bbbb"), text("cccc"), relation=relation), "aaaabbbbcccc")
    )
    assert figures["text_edit"] == pytest.approx(0.25)


def test_a_rule_before_a_formula_makes_it_count_as_text() -> None:
    formula = {"category_type": "equation_isolated", "latex": "\\[x^2+y^2=z^2\\]"}
    truth = page(text(ONE), formula, text(TWO))
    faultless = page_figures(score_page(truth, f"{ONE}\n\n\\[x^2+y^2=z^2\\]\n\n{TWO}"))
    assert (faultless["text_edit"], faultless["formula_edit"]) == (0.0, 0.0)
    shifted = page_figures(score_page(truth, f"{ONE}\n\n***\n\n\\[x^2+y^2=z^2\\]\n\n{TWO}"))
    assert shifted["formula_edit"] is None
    assert shifted["text_edit"] is not None
    assert shifted["text_edit"] > 0


@pytest.mark.parametrize(
    ("answer", "teds", "edit"),
    [
        (HTML, 1.0, 0.0),
        ("|a|b|\n|---|---|\n|c|d|\n", 1.0, 0.46),
        ("\\begin{tabular}{ll} a & b \\\\ c & d \\end{tabular} ", 0.0, 1.0),
        (HTML.replace("<td>d", '<td colspan="two">d'), 0.0, 0.112),
        ("", 0.0, 1.0),
    ],
)
def test_tables(answer: str, teds: float, edit: float) -> None:
    figures = page_figures(score_page(page(text(ONE), {"category_type": "table", "html": HTML}), f"{ONE}\n\n{answer}"))
    assert figures["table_teds"] == pytest.approx(teds)
    assert figures["table_edit"] == pytest.approx(edit, abs=0.005)


def test_pages_without_answer_count_in_the_strict_figures_and_unknown_ones_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(f"{ONE}\n\n{TWO}")
    other = page(text(THREE))
    other["page_info"] = {"image_path": "images/b.jpg"}
    unknown = {"page_info": {"image_path": "c.jpg"}, "blocks": []}
    scored = list(score_pages([page(text(ONE), text(TWO)), other, unknown, {}], tmp_path))
    assert [each.answered for each in scored] == [True, False, False, False]
    assert [bool(each.problem) for each in scored] == [False, False, True, True]
    figures = totals(scored)
    assert (figures["text_edit"].value, figures["text_edit"].pages) == (0.0, 1)
    assert (figures["strict_text_edit"].value, figures["strict_text_edit"].pages) == (0.5, 2)


def test_blocks_without_truth_are_named() -> None:
    score = score_page(page(text(ONE), {"category_type": "table"}, {"category_type": "text_block"}), ONE)
    assert score.lacking == ["text_block 3 has no text", "table 2 has no html"]


def test_a_folder_without_annotations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 JSON files"):
        load_pages(tmp_path)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UsageError, match="no list"):
        load_pages(tmp_path)
