"""OmniDocBench: its folder as downloaded, a system's answers, and the benchmark's figures over all pages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtprune.errors import UsageError
from rtprune.evaluation.olmocr import interval
from rtprune.evaluation.omnidocbench import PageScore, Pair, score_page

#: Pages of the published versions.
VERSIONS = {981: "v1.0", 1355: "v1.5", 1651: "v1.6"}
FIGURES = (
    "text_edit",
    "formula_edit",
    "table_teds",
    "table_teds_structure",
    "table_edit",
    "order_edit",
)
STRICT = ("strict_text_edit", "strict_table_teds")


@dataclass(frozen=True)
class ScoredPage:
    """A page and its figures.

    Attributes:
        image: the benchmark's name for it.
        answered: whether there is an answer; without one it is scored as an empty one.
        score: all its comparisons; None where the page is laid out in an unknown way.
        problem: in which way.
    """

    image: str
    answered: bool
    score: PageScore | None
    problem: str = ""


@dataclass(frozen=True)
class Figure:
    """A mean over pages, with the interval that 95 % of resamplings of the pages fall into."""

    value: float | None
    low: float | None
    high: float | None
    pages: int


def load_pages(data: Path) -> list[Mapping[str, Any]]:
    """The annotations: a JSON file, or the only one in a folder, or there ``OmniDocBench.json``.

    Raises ``UsageError`` where there is none or it is no list of pages.
    """
    files = [data] if data.is_file() else sorted(data.glob("*.json"))
    named = [file for file in files if file.name == "OmniDocBench.json"]
    if len(files) != 1 and not named:
        raise UsageError(
            f"{data} holds {len(files)} JSON files and no OmniDocBench.json",
            "give the folder of OmniDocBench as downloaded, or its JSON file",
        )
    file = (named or files)[0]
    try:
        pages = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} is no JSON: {error}", "download it again") from error
    if not isinstance(pages, list) or not pages:
        raise UsageError(f"{file} is no list of pages", "give the annotations of OmniDocBench")
    return pages


def score_pages(pages: Sequence[Mapping[str, Any]], answers: Path) -> Iterator[ScoredPage]:
    """Every page held against ``STEM.md`` of its picture's name, or ``NAME.md`` with the picture's ending."""
    for number, page in enumerate(pages, start=1):
        try:
            image = Path(page["page_info"]["image_path"]).name
        except (KeyError, TypeError) as error:
            yield ScoredPage(f"page {number}", False, None, f"{type(error).__name__}: {error}")
            continue
        found = [file for file in (answers / f"{Path(image).stem}.md", answers / f"{image}.md") if file.is_file()]
        answer = found[0].read_text(encoding="utf-8", errors="replace") if found else ""
        try:
            yield ScoredPage(image, bool(found), score_page(page, answer))
        except (KeyError, TypeError, ValueError) as error:
            yield ScoredPage(image, bool(found), None, f"{type(error).__name__}: {error}")


def page_figures(score: PageScore, formulas_as_text: bool = True) -> dict[str, float | None]:
    """All figures of one page, None where it has nothing of that kind.

    The strict ones count what the benchmark lets pass: characters and tables that stand for nothing.

    Args:
        formulas_as_text: false where no page has any other text; the benchmark then drops such formulas.
    """
    texts = [pair for pair in score.pairs if pair.element == "text_block" and (formulas_as_text or not pair.moved)]
    formulas = [pair for pair in score.pairs if pair.element == "display_formula"]
    tables = [pair for pair in score.pairs if pair.element == "table"]
    return {
        "text_edit": _edit(texts),
        "formula_edit": _edit(formulas),
        "table_teds": _mean([pair.teds or 0.0 for pair in tables]),
        "table_teds_structure": _mean([pair.teds_structure or 0.0 for pair in tables]),
        "table_edit": _edit(tables),
        "order_edit": _order(score),
        "strict_text_edit": _edit(texts, score.surplus),
        "strict_table_teds": _mean([*(pair.teds or 0.0 for pair in tables), *[0.0] * score.surplus_tables]),
    }


def totals(scored: Sequence[ScoredPage], seed: int = 0) -> dict[str, Figure]:
    """The benchmark's figures over the pages that have an answer, the strict ones over all pages."""
    known = [(page, page.score) for page in scored if page.score is not None]
    pairs = [pair for page, score in known if page.answered for pair in score.pairs]
    texts = any(pair.element == "text_block" and not pair.moved for pair in pairs)
    official = [page_figures(score, texts) for page, score in known if page.answered]
    strict = [page_figures(score) for _, score in known]
    return {name: _figure([each[name] for each in official], seed) for name in FIGURES} | {
        name: _figure([each[name] for each in strict], seed) for name in STRICT
    }


def _figure(values: Sequence[float | None], seed: int) -> Figure:
    known = [value for value in values if value is not None]
    low, high = interval([known] if known else [], seed)
    return Figure(_mean(known), low, high, len(known))


def _edit(pairs: Sequence[Pair], surplus: int = 0) -> float | None:
    length = sum(pair.length for pair in pairs) + surplus
    return (sum(pair.edits for pair in pairs) + surplus) / length if length else None


def _order(score: PageScore) -> float | None:
    return score.order_edits / score.order_length if score.order_length else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
