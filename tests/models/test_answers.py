"""Answers are parsed strictly: well-formed marks become regions, malformed ones are data, nothing is evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rtprune.models.answers import parse_boxes, parse_grounded
from rtprune.models.protocol import Answer, Region


def mark(label: str, boxes: str) -> str:
    return f"<|ref|>{label}<|/ref|><|det|>{boxes}<|/det|>"


def test_regions_carry_label_box_and_text() -> None:
    answer = (
        f"{mark('title', '[[171, 101, 825, 150]]')}\n# A title  \n\n{mark('text', '[[1, 2, 3, 4]]')}\nSome words.\n"
    )
    assert parse_grounded(answer) == Answer(
        "# A title  \n\nSome words.",
        (Region("title", (171, 101, 825, 150), "# A title"), Region("text", (1, 2, 3, 4), "Some words.")),
    )


def test_a_picture_is_a_region_without_text() -> None:
    answer = f"{mark('image', '[[5, 6, 7, 8]]')}\n{mark('image_caption', '[[5, 9, 7, 10]]')}\nFigure 1"
    assert parse_grounded(answer) == Answer(
        "Figure 1", (Region("image", (5, 6, 7, 8), ""), Region("image_caption", (5, 9, 7, 10), "Figure 1"))
    )


def test_text_before_the_first_mark_is_kept_and_belongs_to_no_region() -> None:
    assert parse_grounded(f"Before.\n{mark('text', '[[0, 0, 999, 999]]')}\nIn it.") == Answer(
        "Before.\nIn it.", (Region("text", (0, 0, 999, 999), "In it."),)
    )


def test_several_boxes_of_one_mark_are_regions_of_which_the_first_has_the_text() -> None:
    assert parse_grounded(f"{mark('text', '[[1, 1, 2, 2], [3, 3, 4, 4]]')}\nTwice.").regions == (
        Region("text", (1, 1, 2, 2), "Twice."),
        Region("text", (3, 3, 4, 4), ""),
    )


def test_plain_text_stays_as_it_is() -> None:
    plain = "x < 3, |ref|, [[1, 2, 3, 4]], <td>cell</td> and <b>bold</b>"
    assert parse_grounded(plain) == Answer(plain, ())


@pytest.mark.parametrize(
    "boxes",
    [
        "",
        "[]",
        "[[]]",
        "[[1, 2, 3]]",
        "[[1, 2, 3, 4, 5]]",
        "[1, 2, 3, 4]",
        "[[1, 2, 3, 1000]]",
        "[[-1, 2, 3, 4]]",
        "[[1.5, 2, 3, 4]]",
        "[[3, 2, 1, 4]]",  # right of its own right edge
        "[[1, 4, 3, 2]]",
        "[[1, 2, 3, 4]",
        "[[1, 2, 3, 4]] and more",
        "[[a, b, c, d]]",
        "[[\u0661, \u0662, \u0663, \u0664]]",  # digits to Python's int, but not the model's
        "__import__('os').abort()",
        "[" * 10_000,
    ],
)
def test_a_malformed_box_gives_no_region_and_keeps_the_text(boxes: str) -> None:
    assert parse_boxes(boxes) == ()
    assert parse_grounded(f"{mark('text', boxes)}\nStill here.") == Answer("Still here.", ())


def test_a_malformed_box_among_good_ones_is_left_out_alone() -> None:
    assert parse_boxes("[[1, 2, 3, 4], [5, 6], [7, 8, 9, 10]]") == ((1, 2, 3, 4), (7, 8, 9, 10))


@pytest.mark.parametrize(
    "cut",
    ["<|ref|>", "<|ref|>te", "<|ref|>text<|/ref|>", "<|ref|>text<|/ref|><|det|>", "<|ref|>text<|/ref|><|det|>[[12, 3"],
)
def test_a_mark_cut_short_by_the_end_leaves_nothing_behind(cut: str) -> None:
    whole = f"{mark('text', '[[1, 2, 3, 4]]')}\nWords."
    assert parse_grounded(f"{whole}\n\n{cut}") == parse_grounded(whole)


def test_text_behind_a_lone_mark_is_kept_to_its_end() -> None:
    behind = "All that follows a mark the model did not finish,\nhowever much of it there is."
    answer = parse_grounded(f"<|ref|>title<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\nA\n\n<|ref|>text\n{behind}")
    assert answer.text == f"A\n\ntext\n{behind}"


def test_lone_marks_go_and_what_they_enclose_stays() -> None:
    assert parse_grounded("a <|ref|>named<|/ref|> thing<|/det|> b") == Answer("a named thing b", ())


def test_a_loop_of_open_marks_leaves_its_text_but_for_the_one_cut_short() -> None:
    assert parse_grounded("<|ref|>a" * 50_000) == Answer("a" * 49_999, ())


@given(st.text())
@settings(max_examples=60, deadline=None)
def test_text_without_marks_is_only_stripped(text: str) -> None:
    if "<|" not in text:
        assert parse_grounded(text) == Answer(text.strip(), ())


FRAGMENTS = [
    "<|ref|>",
    "<|/ref|>",
    "<|det|>",
    "<|/det|>",
    "[[1, 2, 3, 4]]",
    "[[",
    "]]",
    "7",
    ",",
    "<|",
    "text",
    "\n",
    " ",
]


@given(st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5))).map("".join))
@example("<|ref|>a<|ref|>b<|/ref|><|det|>[[1,2,3,4]]<|/det|>")
@settings(max_examples=60, deadline=None)
def test_nothing_that_a_model_may_say_raises(answer: str) -> None:
    parsed = parse_grounded(answer)
    for region in parsed.regions:
        left, top, right, bottom = region.box
        assert 0 <= left <= right <= 999
        assert 0 <= top <= bottom <= 999
        assert region.text in parsed.text


def test_a_real_answer_is_parsed_whole(shared_data: Path) -> None:
    parsed = parse_grounded((shared_data / "deepseek-ocr" / "outputs" / "deepseek_title.md").read_text())
    assert " ".join(region.label for region in parsed.regions) == (
        "title text text text text text sub_title text sub_title text image image_caption sub_title text sub_title text"
    )
    title, image, caption = parsed.regions[0], parsed.regions[10], parsed.regions[11]
    assert title.box == (171, 101, 825, 150)
    assert title.text == "# DocLayNet: A Large Human-Annotated Dataset for Document-Layout Analysis"
    assert image == Region("image", (530, 310, 905, 666), "")
    assert caption.box == (515, 677, 912, 704)
    assert caption.text.startswith("<center>Figure 1: Four examples")
    assert "<|" not in parsed.text
    assert "## ABSTRACT" in parsed.text
    assert parsed.text.startswith(title.text)


def test_a_real_answer_that_begins_in_the_middle_keeps_its_beginning(shared_data: Path) -> None:
    parsed = parse_grounded((shared_data / "deepseek-ocr" / "outputs" / "deepseek_simple.md").read_text())
    assert parsed.text.startswith("order to compute the TED score.")
    assert [region.label for region in parsed.regions] == ["sub_title", "text", "sub_title", "text", "text"]
    assert parsed.regions[-1].box == (217, 778, 785, 838)
    assert parsed.regions[-1].text.startswith("Additionally, the results show")
    assert "\\(2x\\) speed up" in parsed.regions[1].text
