"""The one driver behind the command line and a Ray job; the Prefect flow takes the same steps in the same order."""

from __future__ import annotations

from rtprune.corpus.steps import discover, in_progress, plan, prepare, publish_run, read
from rtprune.corpus.values import Done, OnProgress, Planned, RunSummary, ShouldStop, never, nobody
from rtprune.settings import RunSettings


def run_corpus(
    source: str,
    output: str,
    settings: RunSettings,
    *,
    on_progress: OnProgress = nobody,
    should_stop: ShouldStop = never,
) -> RunSummary:
    """Read every page of ``source`` into the dataset at ``output``, or what is missing of it.

    Args:
        source: local file, folder or glob, ``s3://`` prefix or glob, or a text file listing such.
        output: local folder or ``s3://`` prefix.
        on_progress: told after every unit and about once a second.
        should_stop: once it says so, units at work are finished, the rest is left for the next run.

    Raises:
        UsageError: the model, the source, the output or the cluster is not to be had; nothing was read.
        StoreError: the store failed; what was committed before stays, run again for the rest.
    """
    run = prepare(source, output, settings)
    found = discover(run)
    if found.nothing_to_do:
        return publish_run(run, found, Planned(), Done())
    with in_progress(run, found):
        planned = plan(run, found, on_progress=on_progress, should_stop=should_stop)
        done = read(run, found.output, on_progress=on_progress, should_stop=should_stop)
        return publish_run(run, found, planned, done)
