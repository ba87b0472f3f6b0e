"""The corpus flow: discover -> plan -> read on Ray -> publish."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from prefect import State, flow, get_run_logger
from prefect.states import Cancelled, Failed
from pydantic import Field

from rtprune.corpus import run as steps
from rtprune.corpus.run import run_corpus
from rtprune.corpus.stopping import Stopper
from rtprune.corpus.values import Progress, RunSummary
from rtprune.settings import Limit, Ratio, RunSettings
from tasks.discover import discover
from tasks.logs import forwarded
from tasks.plan import plan
from tasks.publish import publish
from tasks.read import read

#: The task that each step of a run is.
TASKS: dict[Any, Any] = {steps.discover: discover, steps.plan: plan, steps.read: read, steps.publish: publish}

STOPPING = "stopping: units at work are finished first; what takes longer than Prefect waits is read by the next run"
STOPPED = "stopped after {units} units, {pages} pages, all of them kept; run the deployment again for the rest"


@flow(name="ocr-corpus", flow_run_name="{source} to {output}")
def ocr_corpus(
    source: str,
    output: str,
    model: str | None = None,
    mode: str | None = None,
    task: str | None = None,
    prune: Literal["dynamic", "off"] | Ratio | None = None,
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None,
    unit_pages: Annotated[int, Field(ge=1, le=10_000)] | None = None,
    workers: Annotated[int, Field(ge=1)] | None = None,
    max_failed: Limit | None = None,
) -> RunSummary | State[RunSummary]:
    """Read every page of a corpus into a Parquet dataset, or what is missing of it.

    What is left out comes from the worker's environment (RTPRUNE_MODEL, RTPRUNE_RAY_ADDRESS, RTPRUNE_PASSWORD, ...) or
    is the package's default. A password is no parameter, because Prefect stores and shows parameters.
    Cancelled, or sent SIGTERM, the flow lets the units at work finish.

    Args:
        source: A file, folder or glob, an s3:// prefix or glob, or a .txt file listing such.
        output: Where the dataset is: a folder or an s3:// prefix.
        model: Name of a published model, a local folder or s3:// prefix in its layout, or "mini".
        mode: View size, such as tiny, base or large.
        task: "text" or "markdown".
        prune: Share of free visual tokens to prune: "dynamic", "off", or 0..1.
        max_output_tokens: A page that has not ended after so many tokens is cut.
        unit_pages: Pages in a work unit, what is committed in one file.
        workers: Ray actors that hold the model.
        max_failed: How many pages, and documents, may fail ("5%" or a number) before the run counts as failed.
    """
    given = {
        "model": model,
        "mode": mode,
        "task": task,
        "prune": prune,
        "max_output_tokens": max_output_tokens,
        "unit_pages": unit_pages,
        "workers": workers,
        "max_failed": max_failed,
    }
    settings = RunSettings(**{name: value for name, value in given.items() if value is not None})
    logger = get_run_logger()
    with forwarded(logger), Stopper(lambda: logger.warning(STOPPING), at_work=False) as stopper:

        def begin(progress: Progress) -> None:
            stopper.begin()

        summary = run_corpus(
            source, output, settings, on_progress=begin, should_stop=stopper.asked, wrap=TASKS.__getitem__
        )
    if summary.status == "stopped":
        return Cancelled(message=STOPPED.format(units=summary.units, pages=summary.tally.pages))
    if summary.status == "failed":
        return Failed(message=summary.message)
    return summary
