"""Slots follow from the memory that is free, and what was decided is said."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from rtprune.engine import budget
from rtprune.engine.budget import CPU_SHARE, PROMPT_TOKENS, Budget, affordable, budget_for, free_bytes
from rtprune.models.deepseek_ocr import DeepSeekOcr


@pytest.mark.parametrize(
    ("free", "most", "pooled", "slots", "tokens"),
    [
        (10 * 9000, 16, False, 10, 90000),
        (10 * 9000, 16, True, 16, 90000),  # pages that are as long as most are: all slots are taken
        (10 * 9000, 64, True, 36, 90000),
        (10**9, 16, True, 16, 16 * 9000),  # never more than all of the longest could take
        (5, 16, False, 1, 9000),
        (5, 16, True, 1, 9000),
    ],
)
def test_as_many_as_fit_and_never_none(free: int, most: int, pooled: bool, slots: int, tokens: int) -> None:
    assert budget_for(free, 1, most, 9000, pooled=pooled) == Budget(slots, tokens)
    assert budget_for(8 * free, 8, most, 9000, pooled=pooled) == Budget(slots, tokens)


def test_a_token_takes_what_the_cache_holds_of_it(model: DeepSeekOcr) -> None:
    text = model.network.config.text_config
    width = text.hidden_size // text.num_attention_heads
    assert model.cache_bytes_per_token == 2 * text.num_hidden_layers * text.num_key_value_heads * width * 4


def test_little_memory_gives_few_slots_and_a_warning(
    model: DeepSeekOcr, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    page = model.cache_bytes_per_token * (PROMPT_TOKENS + 500)
    monkeypatch.setattr(budget, "free_bytes", lambda device: math.ceil(3.5 * page / CPU_SHARE))
    with caplog.at_level(logging.INFO):
        assert affordable(model, 16, 500).slots == 3
        assert affordable(model, 2, 500).slots == 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "3 of 16 slots: the cache may take" in caplog.text


def test_a_system_that_does_not_tell_is_taken_at_its_word(model: DeepSeekOcr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "free_bytes", lambda device: None)
    assert affordable(model, 16, 8192).slots == 16


def test_free_memory_is_a_sensible_number() -> None:
    free = free_bytes(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
