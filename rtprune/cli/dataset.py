"""What is in a dataset (``stats``, ``status``, ``failures``, ``sql``), how it gets out, and its upkeep."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from rtprune.cli.flags import OUTPUT, AsJson, OutputArgument, command

FAILED = 1  # exit code of a verification that finds an error

Query = Annotated[str, Parameter(help="One SQL statement.")]
Folder = Annotated[Path, Parameter(help="Folder for the files; it is made where it is missing.")]
Format = Annotated[Literal["markdown", "text", "jsonl"], Parameter(help="What the files are.")]
Mark = Annotated[
    str | None,
    Parameter(
        help="Stands in front of each page, with its number for {page}; an HTML comment in Markdown, none in text.",
        show_default=False,
        metavar="TEXT",
    ),
]
TargetMb = Annotated[
    int | None,
    Parameter(
        help="Size of the new files in MB; files smaller than half of it are merged.", show_default="128", metavar="N"
    ),
]
Quick = Annotated[
    bool, Parameter(help="Check sizes, rows and columns of the files, and no SHA-256.", show_default=False)
]
Complete = Annotated[bool, Parameter(help="Fail as well while there are pages not read yet.", show_default=False)]
Watch = Annotated[
    bool, Parameter(help="Look again every 10 seconds until no run is at work.", show_default=False, group=OUTPUT)
]


@command()
def stats(output: OutputArgument, /, *, json: AsJson = False) -> int:
    """Print what a dataset holds, and the first of what could not be read."""
    from rtprune.dataset import Output, statistics
    from rtprune.report.summary import dataset_statistics, statistics_values

    dataset = Output.existing(output)
    facts = statistics(dataset)
    print(dumps(statistics_values(dataset.uri, facts), indent=2) if json else dataset_statistics(dataset.uri, facts))
    return 0


@command()
def status(output: OutputArgument, /, *, json: AsJson = False, watch: Watch = False) -> int:
    """Print how far the runs of a dataset are, by what is in it: from any machine.

    Pages count once their unit is committed. A run that was killed still says that it is running: look at when it was
    last seen.
    """
    from rtprune.dataset import DatasetStatus, Output, dataset_status
    from rtprune.report.status import status_text, status_values

    dataset = Output.existing(output)

    def text(now: DatasetStatus) -> str:
        return dumps(status_values(now), indent=None if watch else 2) if json else status_text(now)

    if not watch:
        print(text(dataset_status(dataset)))
        return 0
    from rtprune.report.watching import watched

    watched(lambda: dataset_status(dataset), text, sys.stdout, redraw=not json)
    return 0


@command()
def failures(output: OutputArgument, /, *, json: AsJson = False) -> int:
    """Print what could not be read and why, documents first: a line each."""
    from rtprune.dataset import read_failures
    from rtprune.report.failures import failure_list

    found = read_failures(output)
    print(dumps(found.to_pylist(), indent=2) if json else failure_list(found))
    return 0


@command()
def sql(output: OutputArgument, query: Query, /, *, json: AsJson = False) -> int:
    """Ask a dataset by SQL (DuckDB): a table on a terminal, CSV elsewhere.

    There are ``pages``, ``documents`` and ``runs``, with the columns of the dataset; ``failures`` (uri, page, reason,
    message) and ``savings`` (visual tokens before and after, for each document).
    """
    from rtprune.dataset import Output
    from rtprune.dataset import sql as tables
    from rtprune.report import rows

    with tables.query(Output.existing(output), query) as answer:
        if sys.stdout.isatty() and not json:
            rows.print_table(answer.columns, answer.rows, sys.stdout)
            return 0
        for part in (rows.json_lines if json else rows.csv_lines)(answer.columns, answer.rows):
            sys.stdout.write(part)
    print(end="\n" if json else "")
    return 0


@command()
def export(output: OutputArgument, folder: Folder, /, *, format: Format = "markdown", page_mark: Mark = None) -> int:
    """Write a file for each document, its pages in order; run again, it writes what has changed."""
    from rtprune.dataset import Output
    from rtprune.dataset.export import export_dataset
    from rtprune.report.upkeep import export_summary

    print(export_summary(str(folder), export_dataset(Output.existing(output), folder, format, page_mark)))
    return 0


@command()
def compact(output: OutputArgument, /, *, target_mb: TargetMb = None) -> int:
    """Merge small files into large ones."""
    from rtprune.dataset import Output, compact_dataset
    from rtprune.dataset.compact import target_bytes
    from rtprune.report.upkeep import compaction_summary

    target = target_bytes(target_mb)
    dataset = Output.existing(output)
    print(compaction_summary(dataset.uri, compact_dataset(dataset, target=target)))
    return 0


@command()
def verify(output: OutputArgument, /, *, quick: Quick = False, complete: Complete = False, json: AsJson = False) -> int:
    """Check a dataset; exit code 1 where it does not keep its promise."""
    from rtprune.dataset import Output, verify_dataset
    from rtprune.report.upkeep import verdict_summary, verdict_values

    dataset = Output.existing(output)
    verdict = verify_dataset(dataset, quick=quick)
    print(dumps(verdict_values(dataset.uri, verdict), indent=2) if json else verdict_summary(dataset.uri, verdict))
    return 0 if verdict.sound and not (complete and verdict.unread_pages) else FAILED
