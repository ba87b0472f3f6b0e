"""What is Unlimited-OCR's own: its window, right for batches and pruned prompts, its tiles, and its answers' form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from rtprune import attach, detach
from rtprune.engine.decoding import decode
from rtprune.errors import ModelError, UsageError
from rtprune.models import Answer, Region
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.models.unlimited_ocr import UnlimitedOcr, parse_marked
from rtprune.pruning import PruneConfig
from tests.checkpoints import END, IMAGE
from tests.models.families import UNLIMITED_OCR, WINDOW, Case, Reader, as_arguments, published

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def reader(reader_of: Callable[[Case], Reader]) -> Reader:
    return reader_of(UNLIMITED_OCR)


def test_the_window_comes_from_the_configuration() -> None:
    text = UnlimitedOcr.configuration(published("unlimited_ocr")).text_config
    assert text.sliding_window == 128
    assert text.layer_types == ["reference_sliding_attention"] * 12
    assert text.mlp_layer_types == ["dense", *["sparse"] * 11]
    assert text.max_position_embeddings == 32768
    assert UnlimitedOcr.configuration(UNLIMITED_OCR.config()).text_config.sliding_window == WINDOW


@pytest.mark.parametrize("window", [None, 1, 0, -3])
def test_a_window_that_is_none_is_refused(window: int | None) -> None:
    config = UNLIMITED_OCR.config() | {"sliding_window": window}
    config["language_config"]["sliding_window_size"] = window
    with pytest.raises(ModelError, match="sliding_window"):
        UnlimitedOcr.configuration(config)


def test_deepseek_ocr_does_not_take_it_for_its_own() -> None:
    with pytest.raises(ModelError, match="sliding_window = 128"):
        DeepSeekOcr.configuration(published("unlimited_ocr"))


def test_a_page_is_cut_into_32_tiles_at_most(reader: Reader) -> None:
    columns, rows = reader.model.prepare(Image.new("RGB", (1000, 1414), "white"), "gundam").grid
    assert (columns, rows) != (5, 7), "nearest to the page's shape, but 35"
    assert 2 <= columns * rows <= 32


#: By test round, at which step each page ends at the latest: before, at and behind the first window.
STEPS = [(0, 5, 25), (WINDOW - 1, WINDOW, 2 * WINDOW)]


@pytest.mark.parametrize("ratio", [0.0, 0.4])
def test_pages_that_leave_a_batch_at_any_step_leave_the_others_as_they_are(
    reader: Reader, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, count = reader.prompts(ratio), UNLIMITED_OCR.count
    monkeypatch.setattr(reader.model, "end_token_ids", frozenset())
    free_running = reader.answers(prompts, count)
    for ends in ({answer[step] for answer, step in zip(free_running, steps, strict=True)} for steps in STEPS):
        monkeypatch.setattr(reader.model, "end_token_ids", frozenset(ends))
        alone = [decode(reader.model, [prompt], count)[0] for prompt in prompts]
        together = decode(reader.model, prompts, count)
        assert [answer.ids for answer in together] == [answer.ids for answer in alone]
        assert [answer.finish_reason for answer in together] == [answer.finish_reason for answer in alone]


def test_an_attached_batch_that_must_be_padded_is_refused(reader: Reader) -> None:
    model = reader.model
    pages = [model.prepare(Image.new("RGB", (400, 400), colour), "base") for colour in ("white", "black")]
    prompt = model.prompt("markdown")
    ids = torch.cat([prompt.before, torch.full((pages[0].layout.length,), IMAGE), prompt.after])
    inputs = as_arguments(pages) | {
        "input_ids": torch.stack([torch.cat([ids, ids[-1:]]), torch.cat([torch.tensor([END]), ids])]),
        "attention_mask": torch.ones(2, len(ids) + 1, dtype=torch.long),
    }
    inputs["attention_mask"][1, 0] = 0
    attach(model.network, PruneConfig(ratio=0.5))
    try:
        with pytest.raises(UsageError, match="misreads prompts that are padded"):
            model.network.generate(**inputs, max_new_tokens=2)
    finally:
        detach(model.network)


class TestParse:
    def test_regions_carry_label_box_and_text(self) -> None:
        answer = (
            "<|det|>title [333, 201, 558, 230]<|/det|># R&D FORM\n"
            "<|det|>image [383, 87, 497, 171]<|/det|>\n"
            "<|det|>text [1, 2, 3, 4]<|/det|>Two\nlines, [5, 6].\n"
        )
        assert parse_marked(answer) == Answer(
            "# R&D FORM\nTwo\nlines, [5, 6].",
            (
                Region("title", (333, 201, 558, 230), "# R&D FORM"),
                Region("image", (383, 87, 497, 171), ""),
                Region("text", (1, 2, 3, 4), "Two\nlines, [5, 6]."),
            ),
        )

    @pytest.mark.parametrize(
        "inside",
        [
            "",
            "text",
            "[1, 2, 3, 4]",
            "text [1, 2, 3]",
            "text [1, 2, 3, 4, 5]",
            "text [[1, 2, 3, 4]]",
            "text [1, 2, 3, 1000]",
            "text [-1, 2, 3, 4]",
            "text [3, 2, 1, 4]",  # right of its own right edge
            "text [1, 4, 3, 2]",
            "text [1, 2, 3, 4] more",
            "text [a, b, c, d]",
            "text [\u0661, \u0662, \u0663, \u0664]",  # digits to Python's int, but not the model's
            "text [__import__('os').abort()]",
            "[" * 10_000,
        ],
    )
    def test_a_malformed_mark_gives_no_region_and_keeps_the_text(self, inside: str) -> None:
        assert parse_marked(f"<|det|>{inside}<|/det|>Still here.") == Answer("Still here.", ())

    @pytest.mark.parametrize(
        "cut", ["<|det|>", "<|det|>te", "<|det|>text [", "<|det|>text [12, 3", "<|det|>text [1, 2]"]
    )
    def test_a_mark_cut_short_by_the_end_leaves_nothing_behind(self, cut: str) -> None:
        whole = "<|det|>text [1, 2, 3, 4]<|/det|>Words."
        assert parse_marked(f"{whole}\n{cut}") == parse_marked(whole)

    def test_text_outside_marks_and_behind_a_lone_one_is_kept(self) -> None:
        assert parse_marked("Before.\n<|det|>text [1, 2, 3, 4]<|/det|>In it.").text == "Before.\nIn it."
        assert parse_marked("<|det|>All the page's text,\nunmarked.") == Answer("All the page's text,\nunmarked.", ())

    @given(
        st.lists(
            st.one_of(
                st.sampled_from(
                    ["<|det|>", "<|/det|>", "<|ref|>", "text [1, 2, 3, 4]", "[", "]", "7", "<|", "\n", " "]
                ),
                st.text(max_size=5),
            )
        ).map("".join)
    )
    @example("<|det|>" * 5_000)
    @settings(max_examples=60, deadline=None)
    def test_nothing_that_a_model_may_say_raises(self, answer: str) -> None:
        parsed = parse_marked(answer)
        for region in parsed.regions:
            left, top, right, bottom = region.box
            assert 0 <= left <= right <= 999
            assert 0 <= top <= bottom <= 999
            assert region.text in parsed.text
