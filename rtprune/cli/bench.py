"""``rtprune bench``: measurements on this machine."""

from __future__ import annotations

from json import dumps
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from rtprune.cli.flags import AsJson, command

bench = App(name="bench", help_epilogue="")


def at_least_1(kind: Any, value: int | None) -> None:
    """Refuses 0 and less."""
    if value is not None and value < 1:
        raise ValueError("must be at least 1")


def above_0(kind: Any, value: float | None) -> None:
    """Refuses 0, less, infinity and what is no number."""
    if value is not None and not 0 < value < float("inf"):
        raise ValueError(f"must be a number above 0, got {value}")


Number = Annotated[int, Parameter(validator=at_least_1, metavar="N")]
Threads = Annotated[Number, Parameter(help="CPU threads.")]
Repeats = Annotated[Number, Parameter(help="Runs of each measurement.")]


@bench.command
@command()
def prune(
    *,
    model: Annotated[
        str | None,
        Parameter(
            help="Measure on this model's own features and prefill ('random': full size, random weights); random "
            "features when absent."
        ),
    ] = None,
    repeats: Repeats = 20,
    threads: Threads = 1,
    json: AsJson = False,
) -> int:
    """Compare pruning with its published formulation and with prefill."""
    import torch

    from rtprune.bench.prune import bench_prune, report
    from rtprune.bench.random_model import bench_model

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    measured = bench_prune(bench_model(model) if model else None, repeats=repeats, device=device)
    return _print(measured, report(measured), json)


@bench.command
@command()
def engine(
    *,
    model: Annotated[
        str, Parameter(help="The model that reads, or 'random': full-size DeepSeek-OCR with random weights.")
    ] = "mini",
    mode: Annotated[str | None, Parameter(help="View size; the model's own default when absent.")] = None,
    dtype: Annotated[
        Literal["bfloat16", "float32"] | None, Parameter(help="When absent: bfloat16 on a GPU, float32 on a CPU.")
    ] = None,
    output_tokens: Annotated[
        int | None,
        Parameter(
            help="An answer's tokens: at most, or with random weights exactly; when absent 512, or 256.",
            validator=at_least_1,
            metavar="N",
        ),
    ] = None,
    pages: Annotated[Number, Parameter(help="Pages that are read.")] = 16,
    slots: Annotated[Number, Parameter(help="Pages the engine decodes together.")] = 16,
    repeats: Repeats = 3,
    bandwidth_gb_s: Annotated[
        float | None,
        Parameter(
            help="The device's memory bandwidth, 10^9 bytes a second; measured when absent.",
            validator=above_0,
            metavar="GB",
        ),
    ] = None,
    threads: Threads = 2,
    json: AsJson = False,
) -> int:
    """Compare reading pages with transformers' own generate."""
    import torch

    from rtprune.bench.engine import bench_engine, report
    from rtprune.bench.random_model import models_to_compare

    torch.set_num_threads(threads)
    ours, reference = models_to_compare(model, dtype)
    measured = bench_engine(
        ours,
        reference=reference,
        mode=mode,
        output_tokens=output_tokens or (512 if ours.end_token_ids else 256),
        pages=pages,
        slots=slots,
        repeats=repeats,
        bandwidth_gb_s=bandwidth_gb_s,
    )
    return _print(measured, report(measured), json)


@bench.command
@command()
def plan(
    *, objects: Annotated[Number, Parameter(help="Objects of the corpus.")] = 1_000_000, json: AsJson = False
) -> int:
    """Plan a corpus of many objects, then run again with nothing new."""
    from rtprune.bench.plan import bench_plan, report

    measured = bench_plan(objects)
    return _print(measured, report(measured), json)


@bench.command
@command()
def driver(
    *,
    workers: Annotated[Number, Parameter(help="Simulated workers.")] = 1000,
    units: Annotated[Number, Parameter(help="Units that they are given.")] = 20_000,
    json: AsJson = False,
) -> int:
    """Measure how many units a second the driver can hand out and take back, with simulated workers."""
    from rtprune.bench.driver import bench_driver, report

    measured = bench_driver(workers=workers, units=units)
    return _print(measured, report(measured), json)


@bench.command
@command()
def schedule(
    *,
    step_ms: Annotated[
        float, Parameter(help="What a decode step takes, in ms.", validator=above_0, metavar="MS")
    ] = 4.0,
    prefill_ms: Annotated[
        float, Parameter(help="What a prefill takes however few pages join.", validator=above_0, metavar="MS")
    ] = 10.0,
    page_ms: Annotated[
        float, Parameter(help="What each page that joins adds to it.", validator=above_0, metavar="MS")
    ] = 20.0,
    seeds: Annotated[Number, Parameter(help="Corpora that are played, seeded from 0.")] = 5,
    json: AsJson = False,
) -> int:
    """Play the engine's scheduler with a clock instead of a model: how full the decoder's slots are."""
    from rtprune.bench.schedule import Costs, bench_schedule, report

    measured = bench_schedule(costs=Costs(step_ms, prefill_ms, page_ms), seeds=seeds)
    return _print(measured, report(measured), json)


@bench.command
@command()
def pipeline(
    *,
    pages: Annotated[Number, Parameter(help="Pages of the corpus.")] = 4096,
    workers: Annotated[Number, Parameter(help="Workers, and processes of the bare loop.")] = 2,
    page_ms: Annotated[
        float, Parameter(help="How long the simulated engine takes for a page, in ms.", validator=above_0, metavar="MS")
    ] = 100.0,
    repeats: Annotated[Number, Parameter(help="Runs of line and bare loop.")] = 2,
    store: Annotated[
        str | None,
        Parameter(
            help="Measure instead what latency costs: s3:// prefix to write small documents to and read them from, at "
            "the endpoint AWS_ENDPOINT_URL (http).",
            metavar="URI",
        ),
    ] = None,
    documents: Annotated[Number, Parameter(help="With --store: how many documents.")] = 400,
    delay_ms: Annotated[
        float, Parameter(help="With --store: how much later every call comes.", validator=above_0, metavar="MS")
    ] = 50.0,
    json: AsJson = False,
) -> int:
    """Compare the line without a model with bare rendering, and measure its scaling, or what latency costs it."""
    if store is not None:
        from rtprune.bench import latency

        measured = latency.bench_latency(store=store, documents=documents, workers=workers, delay_ms=delay_ms)
        return _print(measured, latency.report(measured), json)
    from rtprune.bench.pipeline import bench_pipeline, report

    measured = bench_pipeline(pages=pages, workers=workers, page_ms=page_ms, repeats=repeats)
    return _print(measured, report(measured), json)


def _print(measured: dict[str, Any], report: str, json: bool) -> int:
    print(dumps(measured, indent=2) if json else report)
    return 0
