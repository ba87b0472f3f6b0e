"""Guesses at what a page's answer says next, for the decoder to check many tokens in one pass.

A guess never changes the answer: only what the decoder itself would have said is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST = 15  # tokens guessed at a time: with the one before them, 16 are read
_FIRST = 8
_KEY = 4  # tokens by which a place in a source is found
_LONGEST_PAUSE = 64


class Drafter:
    """Guesses the tokens of one page from its text layer, and from what was read of it so far.

    It goes on in the text layer where the answer has last agreed with it, and finds its place again by the last few
    tokens. Where guesses fail it guesses less and, soon, seldom: a wrong layer costs little.

    Args:
        layer: token ids of the page's text layer; empty where there is none.
    """

    def __init__(self, layer: Sequence[int] = ()) -> None:
        self._layer = list(layer)
        self._places: dict[tuple[int, ...], list[int]] = {}
        for end in range(_KEY, len(self._layer)):
            self._places.setdefault(tuple(self._layer[end - _KEY : end]), []).append(end)
        self._own: dict[tuple[int, ...], int] = {}
        self._place: int | None = 0 if self._layer else None
        self._latest = 0  # place where answer and layer last agreed
        self._size = _FIRST
        self._failures = 0
        self._pause = 0

    def guess(self, answer: Sequence[int]) -> list[int]:
        """Tokens that may follow ``answer``; none where there is nothing to go by."""
        if self._pause:
            self._pause -= 1
            return []
        if self._place is not None and self._place < len(self._layer):
            return self._layer[self._place : self._place + self._size]
        key = tuple(answer[-2 * _KEY :])
        again = self._own.get(key) if len(key) == 2 * _KEY else None
        return [] if again is None else list(answer[again : again + self._size])

    def learn(self, answer: Sequence[int], guessed: int, agreed: int) -> None:
        """Take note of an ``answer`` that went on after a guess of ``guessed`` tokens, of which ``agreed`` were right.

        The answer is longer by ``agreed + 1`` tokens than when the guess was made.
        """
        if guessed:
            self._failures = 0 if agreed else self._failures + 1
            self._size = min(MOST, 2 * self._size) if agreed == guessed else max(2, agreed)
            if self._failures > 1:
                self._pause = min(_LONGEST_PAUSE, 2 ** (self._failures - 1))
        for end in range(max(2 * _KEY, len(answer) - agreed - 1), len(answer)):
            self._own[tuple(answer[end - 2 * _KEY : end])] = end
        self._place = self._found(answer, agreed + 1)
        self._latest = self._latest if self._place is None else self._place

    def _found(self, answer: Sequence[int], new: int) -> int | None:
        """Where the layer goes on after ``answer``: straight on, or else at the next place of its last tokens."""
        place = self._place
        if place is not None and self._layer[place : place + new] == list(answer[-new:]):
            return place + new
        places = self._places.get(tuple(answer[-_KEY:]), []) if len(answer) >= _KEY else []
        if not places:
            return None
        return next((found for found in places if found >= self._latest), places[0])
