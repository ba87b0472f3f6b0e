"""Pages come and go, memory may fill, layers may lie: each page's text stays what it is alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rtprune.engine import Engine, PlainPage
from rtprune.engine.cache import SlotCache
from rtprune.engine.decoding import Decoding, decode
from rtprune.engine.prompts import PromptEmbeddings
from rtprune.engine.reading import Reading
from rtprune.errors import RTPruneError, UsageError
from rtprune.mini.generator import Page, PageDesign, draw_page
from rtprune.models import load_model
from rtprune.models.attention import PackedPrompts
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.settings import ReadSettings

Draw = Callable[..., Image.Image]
SIZES = [(320, 400), (900, 500), (300, 300), (700, 1200), (640, 640)]


def engine(model: DeepSeekOcr, mode: str = "tiny", prune: Any = "dynamic", **options: Any) -> Engine:
    settings = ReadSettings(mode=mode, task="text", prune=prune, max_output_tokens=options.pop("tokens", 24))
    return Engine(model, settings, **options)


def vary_ends(model: DeepSeekOcr, monkeypatch: pytest.MonkeyPatch, read: Callable[[], object]) -> None:
    """Make that token an end which lets the pages that ``read`` reads end at the most different steps."""
    said: list[list[int]] = []
    with monkeypatch.context() as patch:
        patch.setattr(model, "detokenize", lambda ids: said.append(list(ids)) or "")
        patch.setattr(model, "end_token_ids", frozenset())
        read()
    tokens = sorted({token for ids in said for token in ids})
    steps = {token: {ids.index(token) for ids in said if token in ids} for token in tokens}
    monkeypatch.setattr(model, "end_token_ids", frozenset({max(tokens, key=lambda token: len(steps[token]))}))


def texts(results: Any) -> list[Any]:
    return [(result.status, result.text, result.output_tokens) for result in results]


def check_company(read: Callable[..., Any], pages: list[Image.Image], *, differ: bool) -> None:
    """Pages read through any number of slots and in any order are those read alone."""
    alone = [read([page], slots=1, guess=False)[0] for page in pages]
    assert not differ or len({result.output_tokens for result in alone}) > 1, "pages must end at different steps"
    for slots in (2, 3, 16):
        assert texts(read(pages, slots=slots)) == texts(alone)
    assert texts(read(pages[::-1], slots=3)[::-1]) == texts(alone)


@pytest.mark.parametrize(
    ("mode", "count"), [("tiny", 8), ("small", 5), pytest.param("gundam", 3, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("prune", ["off", "dynamic"])
def test_pages_that_pass_through_few_slots_read_as_alone(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch, mode: str, count: int, prune: str
) -> None:
    def read(pages: list[Image.Image], **options: Any) -> Any:
        return engine(model, mode, prune, tokens=12, **options).read(pages)

    pages = [draw(seed, SIZES[seed % 5]) for seed in range(count)]
    vary_ends(model, monkeypatch, lambda: read(pages))
    check_company(read, pages, differ=prune == "dynamic")  # unpruned, random weights hardly tell pages apart


@pytest.mark.parametrize("prune", ["off", "dynamic"])
def test_written_pages_read_the_same_in_any_company(mini: DeepSeekOcr, written: list[Page], prune: str) -> None:
    pages = [Image.fromarray(page.picture).convert("RGB") for page in written]
    check_company(
        lambda some, **options: engine(mini, "tiny", prune, tokens=400, **options).read(some), pages, differ=True
    )


def test_results_come_as_pages_end_and_pages_are_taken_as_there_is_room(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [draw(seed, SIZES[seed % 5]) for seed in range(10)]
    vary_ends(model, monkeypatch, lambda: engine(model).read(drawn))
    taken: list[int] = []

    def pages() -> Iterator[tuple[int, PlainPage]]:
        for name, page in enumerate(drawn):
            taken.append(name)
            yield name, PlainPage(page)

    stream = engine(model, slots=4).stream(pages())
    first, _ = next(stream)
    assert len(taken) < 10, "not all pages are taken before the first is read"
    rest = [name for name, _ in stream]
    assert sorted([first, *rest]) == list(range(10))
    assert taken == list(range(10))


@pytest.fixture(scope="module")
def mini() -> DeepSeekOcr:
    loaded = load_model("mini", device="cpu")
    assert isinstance(loaded, DeepSeekOcr)
    return loaded


@pytest.fixture(scope="module")
def written() -> list[Page]:
    """Pages of a few words that the built-in model can read; they end at unlike steps."""
    rng = np.random.default_rng(5)
    return [draw_page(rng, "evaluation", PageDesign(words=(3, 20))) for _ in range(4)]


@pytest.mark.parametrize("layer", ["true", "wrong", "scrambled", "huge"])
def test_a_text_layer_changes_the_steps_and_never_the_text(mini: DeepSeekOcr, written: list[Page], layer: str) -> None:
    pages = [Image.fromarray(page.picture).convert("RGB") for page in written]
    plain = engine(mini, tokens=400, guess=False).read(pages)
    answers = {
        "true": [page.text for page in written],
        "wrong": ["Of the making of many books there is no end. " * 5] * 4,
        "scrambled": [" ".join(reversed(page.text.split())) for page in written],
        "huge": ["".join(map(chr, range(32, 120))) * 500] * 4,
    }[layer]
    guided = engine(mini, tokens=400).read(pages, answers)
    assert texts(guided) == texts(plain)
    assert all(result.decode_steps == result.output_tokens for result in plain)
    steps = [sum(result.decode_steps for result in results) for results in (guided, plain)]
    assert steps[0] <= steps[1] / (2.5 if layer == "true" else 1)
    assert all(result.accepted_tokens <= result.drafted_tokens for result in guided)
    assert all(result.output_tokens == result.decode_steps + result.accepted_tokens for result in guided)


def full_above(model: DeepSeekOcr, most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make the decoder run out of memory with more than ``most`` pages; returns the sizes it was asked for."""
    decoder = model.decoder
    sizes: list[int] = []

    def decode(embeddings: torch.Tensor, *rest: Any) -> Any:
        attention = rest[-1]
        sizes.append(len(attention.lengths) if isinstance(attention, PackedPrompts) else len(embeddings))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decoder(embeddings, *rest)

    monkeypatch.setattr(model, "decoder", decode)
    return sizes


def test_full_memory_halves_the_batch_and_loses_no_page(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pages = [draw(seed, SIZES[seed % 5]) for seed in range(7)]
    wanted = texts(engine(model).read(pages))
    sizes = full_above(model, 2, monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert texts(engine(model, slots=8).read(pages)) == wanted
    assert sizes[:3] == [7, 3, 1], "halved until it fits"
    assert "memory is full with 7 pages: from now on 3 are decoded together" in caplog.text


def test_memory_too_small_for_one_page_ends_the_run_with_advice(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_above(model, 0, monkeypatch)
    with pytest.raises(RTPruneError, match="too small to read even one page"):
        engine(model).read([draw(1), draw(2), draw(3)])


def test_a_pass_that_fails_midway_costs_no_page(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [draw(seed, SIZES[seed % 5]) for seed in range(5)]
    wanted = texts(engine(model).read(pages))
    decoder = model.decoder
    passes = iter(range(1000))

    def failing(*given: Any) -> Any:
        if next(passes) == 5:
            raise RuntimeError("a cosmic ray")
        return decoder(*given)

    monkeypatch.setattr(model, "decoder", failing)
    assert texts(engine(model, slots=3).read(pages)) == wanted


def test_one_page_among_many_slots_is_read_where_only_one_slot_fits(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = SlotCache._empty

    def scarce(cache: SlotCache, like: torch.Tensor) -> torch.Tensor:
        if cache.slots > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return empty(cache, like)

    wanted = texts(engine(model).read([draw(1), draw(2)]))
    monkeypatch.setattr(SlotCache, "_empty", scarce)
    assert texts(engine(model, slots=16).read([draw(1)])) == wanted[:1]
    assert texts(engine(model, slots=16).read([draw(1), draw(2)])) == wanted


def test_an_encoder_without_memory_beside_live_pages_waits_for_them(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [draw(seed, SIZES[seed % 5]) for seed in range(6)]
    vary_ends(model, monkeypatch, lambda: engine(model).read(pages))
    wanted = texts(engine(model).read(pages))
    encode, step, live = model.encode, Reading.step, [0]

    def stepping(reading: Reading[int]) -> Any:
        outcomes = step(reading)
        live[0] = reading.live
        return outcomes

    def encoding(views: Any) -> Any:
        if live[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(views)

    monkeypatch.setattr(Reading, "step", stepping)
    monkeypatch.setattr(model, "encode", encoding)
    assert texts(engine(model, slots=2).read(pages)) == wanted


def test_what_a_spoiled_page_leaves_in_its_slot_does_not_reach_the_next(model: DeepSeekOcr) -> None:
    generator = torch.Generator().manual_seed(3)

    def prompt(length: int) -> PromptEmbeddings:
        return PromptEmbeddings(
            torch.randn(length, model.hidden_size, generator=generator), torch.arange(length)[None], length
        )

    long, short = prompt(90), prompt(20)
    spoiled = replace(prompt(60), embeddings=torch.full((60, model.hidden_size), torch.nan))
    alone = decode(model, [short], 30)[0]
    decoding: Decoding[str] = Decoding(model, 2, 30)
    found = dict(decoding.join([("long", long), ("spoiled", spoiled)]))
    while "spoiled" in decoding.names and "long" in decoding.names:
        decoding.step(guess=False)
        if len(decoding._live[0].ids) > 5:  # the spoiled page leaves early, the long one stays
            decoding.drop(["spoiled"])
    found |= decoding.join([("short", short)])
    while "short" in decoding.names:
        found |= decoding.step(guess=False)
    assert found["short"].ids == alone.ids


def test_guesses_beyond_the_end_are_not_counted(model: DeepSeekOcr, draw: Draw) -> None:
    (plain,) = engine(model, tokens=40, guess=False).read([draw(1)])
    for limit in (5, 7, 11):
        (cut,) = engine(model, tokens=limit).read([draw(1)], [plain.text])
        assert cut.output_tokens == limit == cut.decode_steps + cut.accepted_tokens


def test_a_layer_is_guessed_from_where_the_first_token_left_it(mini: DeepSeekOcr, written: list[Page]) -> None:
    picture = Image.fromarray(written[3].picture).convert("RGB")
    (plain,) = engine(mini, tokens=400, guess=False).read([picture])
    (page,) = engine(mini, tokens=400).read([picture], [plain.text])
    # the prefill gives one token, then guesses of 8 and of 16 and what is left of 32 are right
    assert 1 + 9 + 17 < plain.output_tokens < 1 + 9 + 17 + 33
    assert (page.output_tokens, page.decode_steps) == (plain.output_tokens, 4)


def test_slots_are_refilled_after_memory_was_full(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [draw(seed, SIZES[seed % 5]) for seed in range(8)]
    vary_ends(model, monkeypatch, lambda: engine(model).read(pages))
    sizes = full_above(model, 2, monkeypatch)
    engine(model, slots=16, guess=False).read(pages)
    halved = len(sizes)
    sizes.clear()
    engine(model, slots=2, guess=False).read(pages)
    assert halved <= 1.3 * len(sizes) + 5


def test_two_pages_of_one_name_are_refused(model: DeepSeekOcr, draw: Draw) -> None:
    with pytest.raises(UsageError, match="two pages are called 'a'"):
        list(engine(model).stream([("a", PlainPage(draw(1))), ("a", PlainPage(draw(2)))]))


@pytest.mark.parametrize("slots", [0, -1])
def test_no_slots_are_refused(model: DeepSeekOcr, slots: int) -> None:
    with pytest.raises(UsageError, match="slots must be at least 1"):
        engine(model, slots=slots)


def test_no_prompts_have_no_answers(model: DeepSeekOcr) -> None:
    assert decode(model, [], 10) == []
