"""The command line: ``rtprune page``, ``run``, ``stats``, ``compact``, ``verify``, ``models``, ``bench``.

What takes seconds to import (torch, transformers, Ray) is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from json import dumps
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from rtprune import __version__
from rtprune.errors import DocumentError, RTPruneError, UsageError
from rtprune.report.wording import one_line
from rtprune.settings import ReadSettings, RunSettings

if TYPE_CHECKING:
    from PIL.Image import Image

    from rtprune.corpus.stopping import Stopper
    from rtprune.corpus.values import Progress
    from rtprune.engine import Engine

FAILED, MISUSED = 1, 2
STOPPING = "stopping: units at work are finished first; Ctrl-C again abandons them"
PAGE_FLAGS = (*ReadSettings.model_fields, "password")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0, 1 (it failed), 2 (wrong use), 128 + signal (it was stopped)."""
    given = vars(_parser().parse_args(arguments))
    command: Callable[..., int] = given.pop("command")
    try:
        code = command(**given)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output has seen enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except UsageError as error:
        return _complain(error, MISUSED)
    except RTPruneError as error:
        return _complain(error, FAILED)


def _complain(error: RTPruneError, code: int) -> int:
    print(f"rtprune: error: {one_line(str(error))}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rtprune",
        description="Documents to text, with the visual tokens pruned that the text does not need.",
        epilog="Every setting can also come from the environment: RTPRUNE_MODEL for --model, and so on.",
    )
    parser.add_argument("--version", action="version", version=f"rtprune {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    page = commands.add_parser("page", help="read one page and print its text and token facts")
    page.add_argument("file", metavar="FILE", help="a PDF or picture, local or s3://")
    page.add_argument("--page", type=int, default=1, metavar="N", help="page number, from 1 (default: 1)")
    page.add_argument("--overlay", metavar="PNG", help="draw the page there with its visual tokens, pruned and kept")
    _add_settings(page, PAGE_FLAGS)
    page.set_defaults(command=_page)

    run = commands.add_parser("run", help="read a corpus into a Parquet dataset, or what is missing of it")
    run.add_argument(
        "source", metavar="SOURCE", help="a file, folder or glob, an s3:// prefix or glob, or a .txt file listing such"
    )
    run.add_argument("output", metavar="OUTPUT", help="where the dataset is: a folder or an s3:// prefix")
    _add_settings(run, tuple(RunSettings.model_fields))
    run.set_defaults(command=_run)

    stats = commands.add_parser("stats", help="print what a dataset holds: pages, failures by reason, tokens saved")
    stats.add_argument("output", metavar="OUTPUT", help="the OUTPUT of a run")
    stats.set_defaults(command=_stats)
    _add_upkeep(commands)

    models = commands.add_parser("models", help="list the model families: published names, licences, modes, prompts")
    models.add_argument("--json", action="store_true", help="print JSON instead of text")
    models.set_defaults(command=_models)

    bench = commands.add_parser("bench", help="measure what things cost on this machine")
    kinds = bench.add_subparsers(required=True, metavar="WHAT", title="what")
    prune = kinds.add_parser("prune", help="pruning against its published formulation, and against prefill")
    prune.add_argument(
        "--model",
        help="measure on this model's own features and prefill ('random': full size, random weights); random features "
        "when absent",
    )
    prune.add_argument("--repeats", type=int, default=20, help="runs of each measurement (default: 20)")
    prune.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    prune.add_argument("--json", action="store_true", help="print JSON instead of a table")
    prune.set_defaults(command=_bench_prune)
    _add_bench_engine(kinds)
    plan = kinds.add_parser("plan", help="planning a corpus of many objects, and finding nothing new in it")
    plan.add_argument("--objects", type=int, default=1_000_000, help="objects of the corpus (default: 1000000)")
    plan.add_argument("--json", action="store_true", help="print JSON instead of text")
    plan.set_defaults(command=_bench_plan)
    pipeline = kinds.add_parser("pipeline", help="the line without a model, against bare rendering; and its scaling")
    pipeline.add_argument("--pages", type=int, default=4096, help="pages of the corpus (default: 4096)")
    pipeline.add_argument("--workers", type=int, default=2, help="workers, and processes of the bare loop (default: 2)")
    pipeline.add_argument(
        "--page-ms", type=float, default=100.0, help="what the sleeping engine takes for a page (default: 100)"
    )
    pipeline.add_argument("--repeats", type=int, default=2, help="runs of line and bare loop (default: 2)")
    pipeline.add_argument("--json", action="store_true", help="print JSON instead of text")
    pipeline.set_defaults(command=_bench_pipeline)
    return parser


def _add_upkeep(commands: Any) -> None:
    compact = commands.add_parser("compact", help="gather a dataset's small files into large ones")
    compact.add_argument("output", metavar="OUTPUT", help="the OUTPUT of a run")
    compact.add_argument(
        "--target-mb",
        type=int,
        metavar="N",
        help="size of the new files in MB; files smaller than half of it are gathered (default: 128)",
    )
    compact.set_defaults(command=_compact)

    verify = commands.add_parser("verify", help="prove that every planned page is in one row, or say what is off")
    verify.add_argument("output", metavar="OUTPUT", help="the OUTPUT of a run")
    verify.add_argument("--quick", action="store_true", help="believe files of the right size without their SHA-256")
    verify.add_argument("--complete", action="store_true", help="fail as well while there are pages not read yet")
    verify.add_argument("--json", action="store_true", help="print JSON instead of text")
    verify.set_defaults(command=_verify)


def _add_bench_engine(kinds: Any) -> None:
    engine = kinds.add_parser("engine", help="reading pages, against transformers' own generate")
    engine.add_argument(
        "--model",
        default="mini",
        help="the model that reads, or 'random': full-size DeepSeek-OCR with random weights (default: mini)",
    )
    engine.add_argument("--mode", help="view size; the model's own default when absent")
    engine.add_argument(
        "--dtype", choices=("bfloat16", "float32"), help="bfloat16 on a GPU, float32 on a CPU when absent"
    )
    engine.add_argument(
        "--output-tokens",
        type=int,
        help="an answer's tokens: at most, or with random weights exactly (default: 512, or 256)",
    )
    engine.add_argument("--pages", type=int, default=16, help="pages that are read (default: 16)")
    engine.add_argument("--slots", type=int, default=16, help="pages the engine decodes together (default: 16)")
    engine.add_argument("--repeats", type=int, default=3, help="runs of each measurement (default: 3)")
    engine.add_argument(
        "--bandwidth-gb-s", type=float, help="the device's memory bandwidth, 10^9 bytes a second; measured when absent"
    )
    engine.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    engine.add_argument("--json", action="store_true", help="print JSON instead of a table")
    engine.set_defaults(command=_bench_engine)


def _add_settings(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """A flag for each field of the settings; which values are valid is for the settings to say."""
    for name in names:
        field = RunSettings.model_fields[name]
        default = "" if field.default is None else f" (default: {field.default})"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            default=argparse.SUPPRESS,
            metavar=name.rsplit("_", 1)[-1].upper(),
            help=f"{field.description}{default}".replace("%", "%%"),
        )


def _settings(given: dict[str, Any]) -> RunSettings:
    try:
        return RunSettings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        hint = RunSettings.model_fields[name].description if name in RunSettings.model_fields else None
        raise UsageError(f"--{name.replace('_', '-')} cannot be {first['input']!r}", hint) from error


def _page(*, file: str, page: int, overlay: str | None, **given: Any) -> int:
    settings = _settings(given)
    from rtprune.documents import PageFault, open_document, read_object, render_pages
    from rtprune.report.summary import page_facts
    from rtprune.store import is_remote, require_reachable

    if is_remote(file):
        require_reachable(file)
    try:
        document = open_document(file, read_object(file), password=settings.password)
    except DocumentError as error:
        raise UsageError(error.message, error.hint) from error
    if not 1 <= page <= document.page_count:
        raise UsageError(f"{file} has no page {page}", f"it has pages 1 to {document.page_count}")
    (image,) = render_pages(document, [page], dpi=settings.dpi, max_pixels=settings.max_pixels)
    if isinstance(image, PageFault):
        raise RTPruneError(f"page {page} of {file} cannot be rendered: {image.message}")

    from rtprune.engine import Engine
    from rtprune.models import load_model

    engine = Engine(load_model(settings.model), settings)
    (result,) = engine.read([image.picture], [image.text_layer])
    if result.status == "failed":
        raise RTPruneError(f"page {page} of {file} cannot be read: {result.message}")
    print(f"{result.text}\n")
    print(
        page_facts(
            result,
            page=page,
            page_count=document.page_count,
            model=settings.model,
            mode=engine.mode,
            render_ms=image.render_ms,
        )
    )
    if overlay:
        _save_overlay(overlay, engine, image.picture)
    return 0


def _save_overlay(path: str, engine: Engine, picture: Image) -> None:
    from rtprune.report.overlay import draw_overlay

    views, features, pruned = engine.prune_page(picture)
    try:
        draw_overlay(views, features, pruned).save(path, format="PNG")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}", "name a file you may write") from error
    print(f"{'overlay':<18}{path}")


def _run(*, source: str, output: str, **given: Any) -> int:
    settings = _settings(given)
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
    return _stopped_by(stopper) if summary.status == "stopped" else 0


def _stopped_by(stopper: Stopper) -> int:
    """What a shell expects of a command ended by the signal."""
    return 128 + (stopper.signal or signal.SIGINT)


def _stats(*, output: str) -> int:
    from rtprune.dataset import Output, statistics
    from rtprune.report.summary import dataset_statistics

    found = Output.existing(output)
    print(dataset_statistics(found.uri, statistics(found)))
    return 0


def _compact(*, output: str, target_mb: int | None) -> int:
    from rtprune.dataset import Output, compact_dataset
    from rtprune.dataset.compact import target_bytes
    from rtprune.report.upkeep import compaction_summary

    target = target_bytes(target_mb)
    found = Output.existing(output)
    print(compaction_summary(found.uri, compact_dataset(found, target=target)))
    return 0


def _verify(*, output: str, quick: bool, complete: bool, json: bool) -> int:
    from rtprune.dataset import Output, verify_dataset
    from rtprune.report.upkeep import verdict_summary, verdict_values

    found = Output.existing(output)
    verdict = verify_dataset(found, quick=quick)
    print(dumps(verdict_values(found.uri, verdict), indent=2) if json else verdict_summary(found.uri, verdict))
    return 0 if verdict.sound and not (complete and verdict.unread_pages) else FAILED


def _models(*, json: bool) -> int:
    from rtprune.models import families
    from rtprune.report.families import family_list, family_values

    found = [family.family for family in families()]
    print(dumps(family_values(found), indent=2) if json else family_list(found))
    return 0


def _bench_plan(*, objects: int, json: bool) -> int:
    if objects < 1:
        raise UsageError("--objects must be at least 1")
    from rtprune.bench.plan import bench_plan, report

    found = bench_plan(objects)
    print(dumps(found, indent=2) if json else report(found))
    return 0


def _bench_pipeline(*, json: bool, **given: Any) -> int:
    for name, number in given.items():
        if not number > 0:
            raise UsageError(f"--{name.replace('_', '-')} must be above 0")
    from rtprune.bench.pipeline import bench_pipeline, report

    found = bench_pipeline(**given)
    print(dumps(found, indent=2) if json else report(found))
    return 0


def _bench_prune(*, model: str | None, repeats: int, threads: int, json: bool) -> int:
    if repeats < 1 or threads < 1:
        raise UsageError(f"--{'repeats' if repeats < 1 else 'threads'} must be at least 1")
    import torch

    from rtprune.bench.prune import bench_prune, report
    from rtprune.bench.random_model import bench_model

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = bench_prune(bench_model(model) if model else None, repeats=repeats, device=device)
    print(dumps(found, indent=2) if json else report(found))
    return 0


def _bench_engine(*, threads: int, json: bool, **given: Any) -> int:
    for name, number in (given | {"threads": threads}).items():
        if isinstance(number, int) and number < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
    bandwidth = given["bandwidth_gb_s"]
    if bandwidth is not None and not 0 < bandwidth < float("inf"):
        raise UsageError(f"--bandwidth-gb-s must be a number above 0, got {bandwidth}")
    import torch

    from rtprune.bench.engine import bench_engine, report
    from rtprune.bench.random_model import models_to_compare

    torch.set_num_threads(threads)
    model, reference = models_to_compare(given.pop("model"), given.pop("dtype"))
    tokens = given.pop("output_tokens") or (512 if model.end_token_ids else 256)
    found = bench_engine(model, reference=reference, output_tokens=tokens, **given)
    print(dumps(found, indent=2) if json else report(found))
    return 0
