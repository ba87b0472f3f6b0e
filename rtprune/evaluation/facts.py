"""One fact of olmOCR-bench about a page, and whether an answer agrees with it.

The rules are those of the benchmark's own program, its oddities included: see docs/evaluation.md.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rtprune.evaluation.extra import needed
from rtprune.evaluation.fact_tables import check_table
from rtprune.evaluation.formulas import FormulaRenderer, check_formula

KINDS = ("present", "absent", "order", "table", "math", "baseline")
MAX_REPEATS = 30
MAX_NGRAM = 5

_QUOTES, _DOUBLE_QUOTES, _DASHES = "\u2018\u2019\u201a", "\u201c\u201d\u201e", "\u2013\u2014\u2011\u2012\u2212"
_PLAIN = str.maketrans(
    _QUOTES + _DOUBLE_QUOTES + _DASHES + "\uff3f\u00b5",
    "'" * len(_QUOTES) + '"' * len(_DOUBLE_QUOTES) + "-" * len(_DASHES) + "_\u03bc",
)
_FOREIGN = re.compile(
    "[\u4e00-\u9fff\u3040-\u309f\u30a0-\u30ff"
    "\U0001f600-\U0001f64f\U0001f300-\U0001f5ff\U0001f680-\U0001f6ff\U0001f1e0-\U0001f1ff]"
)
_MARKS = ((r"\*\*(.*?)\*\*", r"\1"), (r"__(.*?)__", r"\1"), (r"</?b>", ""), (r"</?i>", ""))
_ITALICS = ((r"\*(.*?)\*", r"\1"), (r"_(.*?)_", r"\1"))


@dataclass(frozen=True)
class Fact:
    """One machine-checkable statement about a page.

    Attributes:
        pdf: the document's path below the folder of PDFs.
        page: from 1.
        id: the benchmark's name for it.
        kind: one of ``KINDS``, or a word this version does not know.
        file: the fact file it counts for.
        fields: what else its line says.
    """

    pdf: str
    page: int
    id: str
    kind: str
    file: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def max_diffs(self) -> int:
        """Edits that a text may have and still count as found."""
        return int(self.fields.get("max_diffs") or 0)


@dataclass(frozen=True)
class Verdict:
    """Whether an answer agrees with a fact, and the figure behind it where there is one."""

    passed: bool
    note: str = ""
    ratio: float | None = None
    threshold: float | None = None


def normalised(text: str) -> str:
    """The form in which texts are compared: one line, no emphasis, plain quotes and dashes.

    Every pair of ``_`` or ``*`` is taken for emphasis, within words too.
    """
    text = re.sub(r"\s+", " ", re.sub(r"<br/?>", " ", text))
    for pattern, kept in _MARKS + _ITALICS:
        text = re.sub(pattern, kept, text)
    return unicodedata.normalize("NFC", text).translate(_PLAIN)


def check(fact: Fact, answer: str, renderer: FormulaRenderer | None) -> Verdict:
    """Whether the answer agrees. Raises ``ValueError`` or ``KeyError`` for a fact that makes no sense.

    Args:
        renderer: needed by facts of kind ``math`` whose formula is not in the answer letter by letter.
    """
    if fact.kind == "table":
        return Verdict(*check_table(fact.fields, fact.max_diffs, answer, normalised))
    if fact.kind == "math":
        return Verdict(*check_formula(fact.fields, answer, renderer))
    return _CHECKS[fact.kind](fact, answer)


def _check_presence(fact: Fact, answer: str) -> Verdict:
    """``present`` and ``absent``. The shorter of text and answer is sought in the longer one."""
    sought, page = normalised(fact.fields["text"]), normalised(answer)
    if not sought.strip():
        raise ValueError("field text is empty")
    if not fact.fields.get("case_sensitive", True):
        sought, page = sought.lower(), page.lower()
    first, last = fact.fields.get("first_n"), fact.fields.get("last_n")
    if first and last:
        page = page[:first] + page[-last:]
    elif first:
        page = page[:first]
    elif last:
        page = page[-last:]
    threshold = 1.0 - fact.max_diffs / len(sought)
    ratio = needed("rapidfuzz.fuzz").partial_ratio(sought, page) / 100.0
    return Verdict((ratio >= threshold) == (fact.kind == "present"), "", ratio, threshold)


def _check_order(fact: Fact, answer: str) -> Verdict:
    before, after = normalised(fact.fields["before"]), normalised(fact.fields["after"])
    if not before.strip() or not after.strip():
        raise ValueError("field before or after is empty")
    if fact.max_diffs > min(len(before), len(after)) // 2:
        raise ValueError("max_diffs is over half of the text")
    page, find = normalised(answer), needed("fuzzysearch").find_near_matches
    starts = {}
    for name, text in (("before", before), ("after", after)):
        starts[name] = [found.start for found in find(text, page, max_l_dist=fact.max_diffs)]
        if not starts[name]:
            return Verdict(False, f"{name} not found")
    if min(starts["before"]) < max(starts["after"]):
        return Verdict(True)
    return Verdict(False, "both found, never before first")


def _check_baseline(fact: Fact, answer: str) -> Verdict:
    """Not blank (or blank where it must be), not looping at its end, no foreign script."""
    longest = fact.fields.get("max_length")
    counted = answer
    if longest is not None and fact.fields.get("max_length_skips_image_alt_tags", False):
        counted = re.sub(r"!\[.*?\]\(.*?\)", "", answer)
    letters = sum(character.isalnum() for character in counted)
    if longest is not None:
        return Verdict(letters <= longest, "" if letters <= longest else f"{letters} characters on a blank page")
    if letters == 0:
        return Verdict(False, "no letter or digit")
    for size, count in enumerate(_repeats(answer), start=1):
        if count > fact.fields.get("max_repeats", MAX_REPEATS):
            return Verdict(False, f"ends with {count} repeats of {size} characters")
    if fact.fields.get("check_disallowed_characters", True) and _FOREIGN.search(answer):
        return Verdict(False, "characters of a foreign script or emoji")
    return Verdict(True)


def _repeats(answer: str) -> list[int]:
    """How often the last 1, 2, ... ``MAX_NGRAM`` characters stand before themselves."""
    text = re.sub(r"\s+", " ", answer)
    counts = []
    for size in range(1, MAX_NGRAM + 1):
        count, begin = 0, len(text) - size
        while begin >= 0 and text[begin : begin + size] == text[-size:]:
            count, begin = count + 1, begin - size
        counts.append(count)
    return counts


_CHECKS: Mapping[str, Callable[[Fact, str], Verdict]] = {
    "present": _check_presence,
    "absent": _check_presence,
    "order": _check_order,
    "baseline": _check_baseline,
}
