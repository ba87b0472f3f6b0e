"""What an evaluation leaves behind: a Markdown page and Parquet tables in one folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from rtprune.dataset.parquet import parquet_bytes
from rtprune.errors import UsageError
from rtprune.evaluation.olmocr import Bench, FactScore, Total

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
