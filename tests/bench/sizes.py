"""A small DeepSeek-OCR for measurements: its configuration, and the model of random weights made of it."""

from __future__ import annotations

from typing import Any

from tests.checkpoints import random_config

VOCABULARY = 160


def small_config() -> dict[str, Any]:
    """config.json of a tiny DeepSeek-OCR whose every token is a character."""
    config = random_config()
    config["language_config"]["vocab_size"] = VOCABULARY
    return config
