"""``rtprune page``, ``run`` and ``models``: what reads, and with what."""

from __future__ import annotations

import signal
import sys
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from rtprune.cli.flags import OUTPUT, RUN_SETTINGS, AsJson, command, run_settings
from rtprune.errors import DocumentError, RTPruneError, UsageError
from rtprune.settings import PAGE_SETTINGS, check_variables

if TYPE_CHECKING:
    from PIL.Image import Image

    from rtprune.corpus.stopping import Stopper
    from rtprune.corpus.values import Progress
    from rtprune.engine import Engine

STOPPING = "stopping: units at work are finished first; Ctrl-C again abandons them"

TOO_MANY_FAILED = 3  # exit code of a run of which more failed than may

File = Annotated[str, Parameter(help="A PDF or picture, local or s3://.")]
Page = Annotated[int, Parameter(help="Page number, from 1.", group=OUTPUT, metavar="N")]
Overlay = Annotated[
    str | None,
    Parameter(
        help="Write a picture of the page there that shows its visual tokens, pruned and kept.",
        group=OUTPUT,
        metavar="PNG",
    ),
]
Source = Annotated[str, Parameter(help="A file, folder or glob, an s3:// prefix or glob, or a .txt file listing such.")]
Output = Annotated[str, Parameter(help="Where the dataset is: a folder or an s3:// prefix.")]


@command(settings=PAGE_SETTINGS)
def page(file: File, /, *, page: Page = 1, overlay: Overlay = None, **given: Any) -> int:
    """Print the text of one page and what pruning did to it."""
    check_variables()
    settings = run_settings(given)
    from rtprune.read_document import check_pages, open_file, picture_of, read_pages_of
    from rtprune.report.summary import page_facts

    try:
        document = open_file(file, settings.password)
    except DocumentError as error:
        raise UsageError(error.message, error.hint) from error
    check_pages(document, [page])

    from rtprune.engine import Engine
    from rtprune.models import load_model

    engine = Engine(load_model(settings.model), settings)
    (result,) = read_pages_of(document, [page], engine, settings)
    if result.status == "failed":
        raise RTPruneError(f"page {page} of {file} cannot be read: {result.message}")
    print(f"{result.text}\n")
    print(page_facts(result, page_count=document.page_count, model=settings.model, mode=engine.mode))
    if overlay:
        _save_overlay(overlay, engine, picture_of(document, page, settings))
    return 0


def _save_overlay(path: str, engine: Engine, picture: Image) -> None:
    from rtprune.report.overlay import draw_overlay

    views, features, pruned = engine.prune_page(picture)
    try:
        draw_overlay(views, features, pruned).save(path, format="PNG")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}", "name a file you may write") from error
    print(f"{'overlay':<18}{path}")


@command(settings=RUN_SETTINGS)
def run(source: Source, output: Output, /, **given: Any) -> int:
    """Read what the dataset lacks, until done or stopped."""
    settings = run_settings(given)
    from rtprune.corpus.stopping import Stopper
    from rtprune.report.progress import ProgressDisplay

    with ProgressDisplay(sys.stderr) as display:
        stopper = Stopper(lambda: display.say(STOPPING), at_work=False)

        def show(progress: Progress) -> None:
            stopper.begin()
            display.show(progress)

        try:
            with stopper:
                from rtprune.corpus.run import run_corpus
                from rtprune.report.summary import run_summary

                summary = run_corpus(source, output, settings, on_progress=show, should_stop=stopper.asked)
        except KeyboardInterrupt:
            display.say("stopped; what was committed is kept: the same command goes on from there")
            return _stopped_by(stopper)
    print(run_summary(summary))
    if summary.status == "stopped":
        return _stopped_by(stopper)
    return TOO_MANY_FAILED if summary.status == "failed" else 0


def _stopped_by(stopper: Stopper) -> int:
    """What a shell expects of a command ended by the signal."""
    return 128 + (stopper.signal or signal.SIGINT)


@command()
def models(*, json: AsJson = False) -> int:
    """List the model families."""
    from rtprune.models import known_families
    from rtprune.report.families import family_list, family_values

    listed = known_families()
    print(dumps(family_values(listed), indent=2) if json else family_list(listed))
    return 0
