"""Unlimited-OCR: DeepSeek-OCR's architecture, but an answer's token sees only the prompt and the latest tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from PIL.Image import Image
from transformers import UnlimitedOcrConfig

from rtprune.errors import ModelError
from rtprune.models import preparation
from rtprune.models.answers import parse_boxes
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.models.protocol import Answer, Region, Views
from rtprune.models.published import UNLIMITED_OCR

MODES = {"base": preparation.Mode(1024), "gundam": preparation.Mode(1024, most_tiles=32)}

_ATTENTION = "reference_sliding_attention"
#: The names of the window's length, in the order in which the published code asks for them.
_WINDOW = ("sliding_window", "sliding_window_size")

# What is between a mark's ends is matched on its own; it may not contain the start of another mark.
_MARK = re.compile(r"<\|det\|>(?P<inside>(?:(?!<\|).)*)<\|/det\|>[ \t]*\n?", re.DOTALL)
_INSIDE = re.compile(r"\s*(?P<label>[^\s\[\]]{1,64})\s*(?P<box>\[[^\[\]]*\])\s*")
# A mark that the end of the answer cut short, such as "<|det|>text [12, 3".
_CUT_MARK = re.compile(r"<\|det\|>[ \t]*(?:[A-Za-z_][A-Za-z0-9_-]{0,63}[ \t]*(?:\[[0-9, ]*\]?)?)?\Z")
_LONE_MARK = re.compile(r"<\|/?(?:ref|det|grounding)\|>")


class UnlimitedOcr(DeepSeekOcr):
    """An Unlimited-OCR model in memory."""

    family = UNLIMITED_OCR

    @classmethod
    def _configuration(cls, config: Mapping[str, Any]) -> UnlimitedOcrConfig:
        """As DeepSeek-OCR's, with the window's length at its top or in ``language_config`` (``text_config`` in
        transformers' own layout)."""
        language = config.get("language_config", config.get("text_config"))
        parts = [config, language] if isinstance(language, Mapping) else [config]
        windows = [part[name] for part in parts for name in _WINDOW if part.get(name) is not None]
        window = windows[0] if windows else None
        # the cache cannot have a window of one, the token itself
        if not isinstance(window, int) or window < 2 or set(windows) != {window}:
            raise ModelError(
                f"config.json asks for a sliding_window of {windows or None} where Unlimited-OCR has one length",
                "this is no Unlimited-OCR folder",
            )
        if any(set(part.get("layer_types") or [_ATTENTION]) != {_ATTENTION} for part in parts):
            raise ModelError(f"config.json: Unlimited-OCR has no layer_types but {_ATTENTION}")
        config, *rest = ({name: value for name, value in part.items() if name not in _WINDOW} for part in parts)
        found = super()._configuration({**config, "language_config": rest[0] if rest else None})
        found.text_config.sliding_window = window
        found.text_config.layer_types = [_ATTENTION] * found.text_config.num_hidden_layers
        return found

    def prepare(self, picture: Image, mode: str) -> Views:
        self.require("mode", mode, self.modes)
        return preparation.prepare(picture, mode, MODES)

    @property
    def answer_window(self) -> int | None:
        window: int = self.network.config.get_text_config().sliding_window
        return window

    def parse(self, answer: str) -> Answer:
        return parse_marked(answer)


def parse_marked(answer: str) -> Answer:
    """Text and regions of an answer of the form ``<|det|>LABEL [x1, y1, x2, y2]<|/det|>TEXT ...``

    A region's text runs to the next mark. A mark whose label or box is malformed gives no region, and its text stays
    in the answer's. Marks that are incomplete are removed from the text; everything else is kept. Never raises.
    """
    pieces: list[str] = []
    regions: list[Region] = []
    end = 0
    pending: tuple[str, tuple[int, int, int, int]] | None = None

    def close(piece: str) -> None:
        text = _LONE_MARK.sub("", piece)
        pieces.append(text)
        if pending is not None:
            regions.append(Region(*pending, text.strip()))

    for mark in _MARK.finditer(answer):
        close(answer[end : mark.start()])
        inside = _INSIDE.fullmatch(mark["inside"])
        boxes = parse_boxes(f"[{inside['box']}]") if inside else ()
        pending = (inside["label"], boxes[0]) if inside and boxes else None
        end = mark.end()
    close(_CUT_MARK.sub("", answer[end:]))
    return Answer("".join(pieces).strip(), tuple(regions))
