"""When a page's decoding ends: by the model itself, at the token limit, or in a loop."""

from __future__ import annotations

import numpy as np

from rtprune.engine.result import FinishReason

#: A page loops when its last `NGRAM` tokens stand a second time within its last `WINDOW` tokens. The published
#: runners forbid repeated n-grams of 20 to 35 token by token; ending a page asks for more evidence than that, as
#: dotted lines and columns of zeros repeat too.
NGRAM = 90
WINDOW = 270


class LoopGuard:
    """Windowed n-gram loop detection, one token at a time.

    For every period p up to ``window - ngram`` it counts how many tokens in a row equalled the token p before them.
    A count of ``ngram`` says that the last ``ngram`` tokens stood p earlier too.

    Args:
        exempt: ids whose repetition proves nothing (table cell marks): they neither add to a count nor, where they
            fit the period, end it.
    """

    def __init__(self, exempt: frozenset[int] = frozenset(), ngram: int = NGRAM, window: int = WINDOW) -> None:
        self._exempt = exempt
        self._ngram = ngram
        self._recent = np.full(window - ngram, -1, dtype=np.int64)  # newest first
        self._counts = np.zeros(window - ngram, dtype=np.int64)

    def repeats(self, token: int) -> bool:
        """Take the next token; whether the page is in a loop now."""
        self._counts += token not in self._exempt
        self._counts[self._recent != token] = 0
        self._recent[1:] = self._recent[:-1]
        self._recent[0] = token
        return bool(self._counts.max() >= self._ngram)


class PageGuard:
    """Decides after each token of one page whether it was the last."""

    def __init__(self, end_token_ids: frozenset[int], max_tokens: int, exempt: frozenset[int] = frozenset()) -> None:
        self._end_token_ids = end_token_ids
        self._left = max_tokens
        self._loop = LoopGuard(exempt)

    def after(self, token: int) -> FinishReason | None:
        """Take the next token; why the page ends with it, or ``None`` where it goes on."""
        self._left -= 1
        if token in self._end_token_ids:
            return "eos"
        if self._loop.repeats(token):
            return "loop"
        return "length" if self._left <= 0 else None
