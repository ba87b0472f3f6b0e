"""Slots follow from the memory that is free, and what was decided is said."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from rtprune.engine import budget
from rtprune.engine.budget import CPU_SHARE, PROMPT_TOKENS, affordable_slots, free_bytes, slots_that_fit
from rtprune.models.deepseek_ocr import DeepSeekOcr


@pytest.mark.parametrize(
    ("free", "per_page", "most", "slots"), [(100, 10, 16, 10), (100, 1, 16, 16), (5, 10, 16, 1), (100, 0, 4, 4)]
)
def test_as_many_as_fit_and_never_none(free: int, per_page: int, most: int, slots: int) -> None:
    assert slots_that_fit(free, per_page, most) == slots


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
        assert affordable_slots(model, 16, 500) == 3
        assert affordable_slots(model, 2, 500) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "3 of 16 slots: the cache may take" in caplog.text


def test_a_system_that_does_not_tell_is_taken_at_its_word(model: DeepSeekOcr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "free_bytes", lambda device: None)
    assert affordable_slots(model, 16, 8192) == 16


def test_free_memory_is_a_sensible_number() -> None:
    free = free_bytes(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
