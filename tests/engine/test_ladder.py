"""A page that ends in a loop is read again, and its result says which way of reading gave the answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from rtprune.engine import Engine, PageResult
from rtprune.engine.decoding import Sampler
from rtprune.engine.ladder import ladder
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.pruning import PruneConfig
from rtprune.settings import ReadSettings

Draw = Callable[..., Image.Image]
SIZE = (900, 500)  # cut into two tiles


def test_rungs_that_change_nothing_are_left_out(model: DeepSeekOcr) -> None:
    def names(mode: str, ratio: Any) -> list[str]:
        return [strategy.name for strategy in ladder(model, mode, PruneConfig(ratio=ratio))]

    assert names("tiny", "dynamic") == ["default", "unpruned", "tiled", "sampled"]
    assert names("tiny", 0.0) == ["default", "tiled", "sampled"]
    assert names("gundam", 0.25) == ["default", "unpruned", "sampled"]
    strategies = ladder(model, "tiny", PruneConfig())
    assert [strategy.mode for strategy in strategies] == ["tiny", "tiny", "gundam", "tiny"]
    assert [strategy.pruning.ratio for strategy in strategies] == ["dynamic", 0.0, 0.0, 0.0]
    assert [strategy.temperature > 0 for strategy in strategies] == [False, False, False, True]


def read(
    model: DeepSeekOcr, page: Image.Image, good: int, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> tuple[PageResult, list[int]]:
    """Read a page with a model that loops but at its ``good``-th attempt; the prompts' lengths are told as well."""
    decoder = model.decoder
    (end,) = model.end_token_ids
    letter = model.tokenize("A")[0]
    prompts: list[int] = []

    def scripted(embeddings: torch.Tensor, *rest: Any) -> Any:
        logits, cache = decoder(embeddings, *rest)
        first = embeddings.shape[1] > 20  # a prompt, not a step
        if first:
            prompts.append(embeddings.shape[1])
        says = end if len(prompts) - 1 == good and not first else letter
        forced = torch.full_like(logits, -100.0)
        forced[..., says] = 100.0
        return forced, cache

    monkeypatch.setattr(model, "decoder", scripted)
    reading = ReadSettings(mode="tiny", task="text", max_output_tokens=1000, **settings)
    (result,) = Engine(model, reading, slots=1).read([page])
    monkeypatch.undo()
    return result, prompts


@pytest.mark.parametrize(
    ("good", "strategy", "mode"), [(0, "default", "tiny"), (1, "unpruned", "tiny"), (2, "tiled", "gundam")]
)
def test_the_first_rung_that_does_not_loop_gives_the_answer(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch, good: int, strategy: str, mode: str
) -> None:
    result, prompts = read(model, draw(3, SIZE), good, monkeypatch)
    assert (result.status, result.text, result.strategy, result.mode) == ("ok", "A", strategy, mode)
    assert len(prompts) == good + 1
    assert result.facts is not None
    assert (result.facts.tokens_after < result.facts.tokens_before) == (good == 0)
    assert prompts == sorted(prompts), "each strategy shows the model more"


def test_the_last_rung_samples(model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    result, prompts = read(model, draw(3, SIZE), 3, monkeypatch)
    assert (result.status, result.text, result.strategy) == ("ok", "A", "sampled")
    assert prompts[3] == prompts[1], "unpruned, in the mode that was asked for"


def test_where_no_rung_helps_the_page_is_what_was_asked_for(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, prompts = read(model, draw(3, SIZE), 99, monkeypatch)
    assert (result.status, result.strategy, result.mode) == ("loop", "default", "tiny")
    assert len(prompts) == 4
    assert result.facts is not None
    assert result.facts.tokens_after < 73


def test_loops_are_read_once_where_settings_say_so(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, prompts = read(model, draw(3, SIZE), 1, monkeypatch, reread=False)
    assert (result.status, len(prompts)) == ("loop", 1)


def test_sampling_follows_the_softmax_and_draws_the_same_again() -> None:
    logits = torch.log(torch.tensor([0.2, 0.3, 0.5]))
    sampler, again = Sampler(1.0), Sampler(1.0)
    said = [sampler.draw(logits) for _ in range(3000)]
    assert said == [again.draw(logits) for _ in range(3000)]
    drawn = [token for token, _ in said]
    assert {token: round(math.exp(log), 6) for token, log in said} == {0: 0.2, 1: 0.3, 2: 0.5}
    shares = [drawn.count(token) / 3000 for token in range(3)]
    assert shares == pytest.approx([0.2, 0.3, 0.5], abs=0.04)
    assert {Sampler(0.01).draw(logits)[0] for _ in range(20)} == {2}


def test_a_page_that_fails_is_read_on_the_next_rung(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = draw(3)
    reading = ReadSettings(mode="tiny", task="text", max_output_tokens=12)
    (whole,) = Engine(model, reading.model_copy(update={"prune": "off"})).read([picture])
    decoder = model.decoder

    def broken(embeddings: torch.Tensor, *rest: Any) -> Any:
        if 20 < embeddings.shape[1] < whole.prompt_tokens:
            raise RuntimeError("pruned prompts do not agree with it")
        return decoder(embeddings, *rest)

    monkeypatch.setattr(model, "decoder", broken)
    (found,) = Engine(model, reading).read([picture])
    assert (found.status, found.text, found.strategy) == (whole.status, whole.text, "unpruned")
    (found,) = Engine(model, reading.model_copy(update={"reread": False})).read([picture])
    assert (found.status, found.reason, found.strategy) == ("failed", "unexpected", "default")


def test_a_page_that_fails_on_every_rung_tells_of_the_first(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter(range(9))

    def broken(*unused: Any) -> Any:
        raise RuntimeError(f"failure {next(failures)}")

    monkeypatch.setattr(model, "encode", broken)
    (found,) = Engine(model, ReadSettings(mode="tiny", task="text")).read([draw(3)])
    assert (found.status, found.message) == ("failed", "RuntimeError: failure 0")
