"""What an evaluation leaves behind: a Markdown page and Parquet tables in one folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from rtprune.dataset.parquet import parquet_bytes
from rtprune.errors import UsageError
from rtprune.evaluation.olmocr import Bench, FactScore, Total
from rtprune.evaluation.omnidocbench_total import FIGURES, STRICT, VERSIONS, Figure, ScoredPage, page_figures

#: How many of a list's entries the Markdown page shows; the tables have all.
SHOWN = 20

FACTS = pa.schema(
    [
        ("pdf", pa.string()),
        ("page", pa.int32()),
        ("id", pa.string()),
        ("type", pa.string()),
        ("file", pa.string()),
        ("passed", pa.bool_()),
        ("share", pa.float64()),
        ("note", pa.string()),
        ("ratio", pa.float64()),
        ("threshold", pa.float64()),
        ("answers", pa.int32()),
    ]
)
FACT_PAGES = pa.schema(
    [
        ("pdf", pa.string()),
        ("page", pa.int32()),
        ("facts", pa.int32()),
        ("judged", pa.int32()),
        ("passed", pa.int32()),
        ("answers", pa.int32()),
    ]
)

_COUNTS = ("surplus", "surplus_tables", "pairs")
SCORED_PAGES = pa.schema(
    [("image", pa.string()), ("answered", pa.bool_()), ("problem", pa.string())]
    + [(name, pa.float64()) for name in (*FIGURES, *STRICT)]
    + [(name, pa.int32()) for name in _COUNTS]
)
PAIRS = pa.schema(
    [
        ("image", pa.string()),
        ("element", pa.string()),
        ("true", pa.list_(pa.int32())),
        ("predicted", pa.list_(pa.int32())),
        ("edits", pa.int32()),
        ("length", pa.int32()),
        ("teds", pa.float64()),
        ("teds_structure", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Evaluation:
    """What is written.

    Attributes:
        page: Markdown.
        tables: name of the file without its ending -> rows.
        figures: the totals, as plain values.
    """

    page: str
    tables: Mapping[str, pa.Table]
    figures: Mapping[str, Any]


def write(evaluation: Evaluation, out: Path) -> None:
    """Write ``scores.md`` and ``NAME.parquet`` into ``out``. Raises ``UsageError`` where that cannot be done."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "scores.md").write_text(evaluation.page, encoding="utf-8")
        for name, table in evaluation.tables.items():
            (out / f"{name}.parquet").write_bytes(parquet_bytes(table))
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}", "give --out a folder that can be") from error


def olmocr_evaluation(bench: Bench, scores: Sequence[FactScore], total: Total, answers: str) -> Evaluation:
    """The score of one system on olmOCR-bench."""
    by_page = sorted(scores, key=lambda each: (each.fact.pdf, each.fact.page))
    pages = [
        _fact_page(pdf, page, list(group))
        for (pdf, page), group in groupby(by_page, key=lambda each: (each.fact.pdf, each.fact.page))
    ]
    facts = [
        {
            "pdf": each.fact.pdf,
            "page": each.fact.page,
            "id": each.fact.id,
            "type": each.fact.kind,
            "file": each.fact.file,
            "passed": each.passed,
            "share": each.share,
            "note": each.note,
            "ratio": each.ratio,
            "threshold": each.threshold,
            "answers": each.answers,
        }
        for each in scores
    ]
    lines = [
        "# olmOCR-bench",
        "",
        *table(
            ("answers", "score", "95 % of resamplings", *total.by_file),
            [
                (
                    answers,
                    percent(total.score),
                    f"{percent(total.low)} to {percent(total.high)}",
                    *(f"{passed} of {judged}" for passed, judged in total.by_file.values()),
                )
            ],
        ),
        "",
        *table(
            ("type", "passed", "judged"), [(kind, str(p), str(judged)) for kind, (p, judged) in total.by_kind.items()]
        ),
        "",
        *listed("pages without an answer; their facts failed", total.missing),
        *listed("facts that raised an error; they failed", total.errors),
        *listed("facts that were not judged and are in no figure", total.unjudged),
        *listed("lines that are no fact and are in no figure", bench.faulty),
    ]
    if total.missing or total.errors:
        lines.append("The benchmark's own program gives such a system 0.")
    figures = {
        "score": total.score,
        "low": total.low,
        "high": total.high,
        "by_file": {name: list(counts) for name, counts in total.by_file.items()},
        "by_type": {name: list(counts) for name, counts in total.by_kind.items()},
        "missing": list(total.missing),
        "errors": list(total.errors),
        "unjudged": list(total.unjudged),
        "faulty": list(bench.faulty),
    }
    tables = {
        "facts": pa.Table.from_pylist(facts, FACTS),
        "pages": pa.Table.from_pylist(pages, FACT_PAGES),
    }
    return Evaluation("\n".join(lines).rstrip() + "\n", tables, figures)


def _fact_page(pdf: str, page: int, scores: Sequence[FactScore]) -> dict[str, Any]:
    return {
        "pdf": pdf,
        "page": page,
        "facts": len(scores),
        "judged": sum(each.passed is not None for each in scores),
        "passed": sum(bool(each.passed) for each in scores),
        "answers": scores[0].answers,
    }


def omnidocbench_evaluation(scored: Sequence[ScoredPage], totals: Mapping[str, Figure], answers: str) -> Evaluation:
    """The score of one system on OmniDocBench."""
    missing = [page.image for page in scored if page.score is not None and not page.answered]
    unknown = [f"{page.image}: {page.problem}" for page in scored if page.score is None]
    lacking = [f"{page.image}: {each}" for page in scored if page.score is not None for each in page.score.lacking]
    version = VERSIONS.get(len(scored), "no published version has so many")
    lines = [
        "# OmniDocBench",
        "",
        f"{len(scored)} pages ({version}). Edit distances: 0 is best. TEDS: 1 is best.",
        "",
        *table(("answers", *totals), [(answers, *(_number(figure.value) for figure in totals.values()))]),
        "",
        *table(
            ("figure", "mean over pages", "95 % of resamplings", "pages"),
            [
                (name, _number(each.value), f"{_number(each.low)} to {_number(each.high)}", str(each.pages))
                for name, each in totals.items()
            ],
        ),
        "",
        "No overall score: it needs CDM, which is not measured here.",
        "",
        *listed("pages without an answer; wholly wrong in the strict figures, in no other", missing),
        *listed("pages laid out otherwise than v1.5 and v1.6, in no figure", unknown),
        *listed("true blocks without truth; they count as empty", lacking),
    ]
    pages = [_scored_page(page) for page in scored]
    pairs = [
        {
            "image": page.image,
            "element": pair.element,
            "true": list(pair.true),
            "predicted": list(pair.predicted),
            "edits": pair.edits,
            "length": pair.length,
            "teds": pair.teds,
            "teds_structure": pair.teds_structure,
        }
        for page in scored
        if page.score is not None
        for pair in page.score.pairs
    ]
    figures = {
        "version": version,
        "pages": len(scored),
        "figures": {name: asdict(figure) for name, figure in totals.items()},
        "missing": missing,
        "unknown": unknown,
        "lacking": lacking,
    }
    tables = {"pages": pa.Table.from_pylist(pages, SCORED_PAGES), "pairs": pa.Table.from_pylist(pairs, PAIRS)}
    return Evaluation("\n".join(lines) + "\n", tables, figures)


def _scored_page(page: ScoredPage) -> dict[str, Any]:
    row: dict[str, Any] = {"image": page.image, "answered": page.answered, "problem": page.problem}
    if page.score is None:
        return row
    counts = (page.score.surplus, page.score.surplus_tables, len(page.score.pairs))
    return row | page_figures(page.score) | dict(zip(_COUNTS, counts, strict=True))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a Markdown table."""
    for line in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(line)} |"


def listed(about: str, entries: Sequence[str]) -> Iterator[str]:
    """How many there are, and the first of them."""
    yield f"- {len(entries)} {about}"
    yield from (f"  - {each}" for each in entries[:SHOWN])
    if len(entries) > SHOWN:
        yield f"  - and {len(entries) - SHOWN} more"


def percent(share: float | None) -> str:
    """A share as per cent with one digit; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.1f}"
