"""A model's raw answer -> text and regions. The answer is data: it is matched, never evaluated."""

from __future__ import annotations

import re

from rtprune.models.protocol import Answer, Region

# Neither a label nor a box may contain the start of another mark, which also keeps matching linear.
_MARK = re.compile(
    r"<\|ref\|>(?P<label>(?:(?!<\|).)*)<\|/ref\|><\|det\|>(?P<boxes>(?:(?!<\|).)*)<\|/det\|>[ \t]*\n?", re.DOTALL
)
# A mark that the end of the answer cut short, such as "<|ref|>text<|/ref|><|det|>[[12, 3". Labels are short and of one
# line; what is not may be the page's text behind a lone mark.
_CUT_MARK = re.compile(r"<\|ref\|>(?:(?!<\|)[^\n]){0,64}(?:<\|/ref\|>(?:<\|det\|>[\[\]0-9,\s]*)?)?\Z")
_LONE_MARK = re.compile(r"<\|/?(?:ref|det|grounding)\|>")
_BOXES = re.compile(r"\s*\[\s*\[[^\[\]]*\](?:\s*,\s*\[[^\[\]]*\])*\s*\]\s*")
_BOX = re.compile(r"\[\s*([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*\]")


def parse_grounded(answer: str) -> Answer:
    """Text and regions of an answer of the form ``<|ref|>LABEL<|/ref|><|det|>[[x1, y1, x2, y2]]<|/det|>`` TEXT ...

    A region's text runs to the next mark; of several boxes in one mark the first carries the text. A box that is
    not four ordered integers of 0..999 gives no region, and its text stays in the answer's. Marks that are
    incomplete are removed from the text; everything else is kept. Never raises.
    """
    regions: list[Region] = []
    pieces: list[str] = []
    end = 0
    pending: list[tuple[str, tuple[int, int, int, int]]] = []

    def close(piece: str) -> None:
        text = _LONE_MARK.sub("", piece)
        pieces.append(text)
        regions.extend(
            Region(label, box, text.strip() if index == 0 else "") for index, (label, box) in enumerate(pending)
        )

    for mark in _MARK.finditer(answer):
        close(answer[end : mark.start()])
        pending = [(mark["label"].strip(), box) for box in parse_boxes(mark["boxes"])]
        end = mark.end()
    close(_CUT_MARK.sub("", answer[end:]))
    return Answer("".join(pieces).strip(), tuple(regions))


def parse_boxes(text: str) -> tuple[tuple[int, int, int, int], ...]:
    """The well-formed boxes of ``[[x1, y1, x2, y2], ...]``, in order; none where the list itself is malformed."""
    if not _BOXES.fullmatch(text):
        return ()
    found = []
    for match in _BOX.finditer(text):
        left, top, right, bottom = (int(part) for part in match.groups())
        if left <= right and top <= bottom:
            found.append((left, top, right, bottom))
    return tuple(found)
