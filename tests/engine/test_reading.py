"""Pages come and go, memory may fill, layers may lie: each page's text stays what it is alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rtprune.engine import Engine
from rtprune.errors import RTPruneError
from rtprune.mini.generator import Page, draw_page
from rtprune.models import load_model
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


@pytest.mark.parametrize(("mode", "count"), [("tiny", 8), ("small", 5), ("gundam", 3)])
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

    def pages() -> Iterator[tuple[int, Image.Image, str]]:
        for name, page in enumerate(drawn):
            taken.append(name)
            yield name, page, ""

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
    """Pages that the built-in model can read."""
    rng = np.random.default_rng(5)
    return [draw_page(rng, "evaluation") for _ in range(4)]


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
        sizes.append(len(embeddings))
        if len(embeddings) > most:
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
