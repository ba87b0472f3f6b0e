"""``rtprune eval``: scores of answers by the benchmarks' own rules."""

from __future__ import annotations

from contextlib import nullcontext
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rtprune.cli.flags import AsJson, command
from rtprune.errors import UsageError

if TYPE_CHECKING:
    from rtprune.evaluation.written import Evaluation


@command()
def eval(
    *,
    answers: Annotated[Path, Parameter(help="Folder of the Markdown files that a system wrote.", metavar="DIR")],
    bench: Annotated[Literal["olmocr", "omnidocbench"], Parameter(help="The benchmark that these pages are of.")],
    data: Annotated[Path, Parameter(help="The benchmark's folder, as downloaded.", metavar="DIR")],
    out: Annotated[Path, Parameter(help="Folder for scores.md and the Parquet files.", metavar="DIR")],
    seed: Annotated[int, Parameter(help="Seed of the resampling behind intervals.", metavar="N")] = 0,
    json: AsJson = False,
) -> int:
    """Score Markdown answers on a benchmark."""
    from rtprune.evaluation.extra import needed
    from rtprune.evaluation.written import write

    for library in ("rapidfuzz.fuzz", "fuzzysearch", "bs4", "lxml", "pylatexenc", "docling_metrics_table"):
        needed(library)
    for flag, folder in (("--answers", answers), ("--data", data)):
        if not folder.is_dir():
            raise UsageError(f"{flag} {folder} is no folder", "give the path of one that exists")
    evaluation = (_olmocr if bench == "olmocr" else _omnidocbench)(answers, data, seed)
    write(evaluation, out)
    print(dumps(evaluation.figures, indent=2) if json else evaluation.page, end="\n" if json else "")
    return 0


def _olmocr(answers: Path, data: Path, seed: int) -> Evaluation:
    from rtprune.evaluation.formulas import KatexBrowser
    from rtprune.evaluation.olmocr import load_bench, score_facts, total
    from rtprune.evaluation.written import olmocr_evaluation

    bench = load_bench(data)
    wanted = any(fact.kind == "math" for fact in bench.facts)
    with (KatexBrowser.found() if wanted else None) or nullcontext() as browser:
        scores = list(score_facts(bench, answers, browser))
    return olmocr_evaluation(bench, scores, total(scores, seed), answers.name)


def _omnidocbench(answers: Path, data: Path, seed: int) -> Evaluation:
    from rtprune.evaluation.omnidocbench_total import load_pages, score_pages, totals
    from rtprune.evaluation.written import omnidocbench_evaluation

    scored = list(score_pages(load_pages(data), answers))
    return omnidocbench_evaluation(scored, totals(scored, seed), answers.name)
