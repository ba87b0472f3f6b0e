"""How fast pages are read: the engine against transformers' own `generate`, on the same pages, with texts compared."""

from __future__ import annotations

import resource
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from rtprune.bench.arithmetic import arithmetic_of
from rtprune.bench.pages import drawn_pages
from rtprune.bench.prune import Milliseconds
from rtprune.bench.stages import Batch, copy_bandwidth_gb_s
from rtprune.documents import PageImage
from rtprune.engine import Engine
from rtprune.engine.budget import affordable
from rtprune.engine.decoding import clock_ms
from rtprune.engine.kernels import kernels_of
from rtprune.engine.prompts import PromptEmbeddings, assemble_prompt
from rtprune.engine.result import PageResult
from rtprune.errors import RTPruneError
from rtprune.models.checkpoint import BUILT_IN
from rtprune.models.protocol import OcrModel, Views
from rtprune.pruning import PruneConfig
from rtprune.settings import ReadSettings

STATIC_BATCH = 8
FEW_PAGES = 4  # that `generate` reads page by page where all answers are of one length
PRUNINGS = {"unpruned": PruneConfig(ratio=0.0), "dynamic": PruneConfig()}
STAGES = ("render", "encode", "prune", "prefill", "decode")


@dataclass(frozen=True)
class EngineCost:
    """One way of reading the pages.

    Attributes:
        pages: how many it read; `generate` reads fewer where all answers are of one length.
        pages_per_s: of the repeated runs, the median; rendering is not in it.
        seconds: of a run over all pages.
        tokens_per_s: output tokens, median.
        decode_steps: of all pages, prefills included: fewer than the output's tokens where guesses are right.
        ms_per_page: where the engine's time went in the last run, milliseconds by stage; absent for `generate`.
        time_share: the same as shares of 1.
        equal_text: share of pages whose text is that of `generate` page by page, in the same type of numbers.
        equal_float32: share of pages whose text is that of `generate` page by page in float32; absent where no model
            in float32 was given.
    """

    pages: int
    pages_per_s: float
    seconds: Milliseconds
    tokens_per_s: float
    decode_steps: int
    ms_per_page: dict[str, float] | None
    time_share: dict[str, float] | None
    equal_text: float
    equal_float32: float | None


@dataclass(frozen=True, eq=False)
class _Bench:
    """What is read, and how."""

    model: OcrModel
    pages: list[PageImage]
    mode: str | None
    slots: int
    output_tokens: int
    repeats: int

    def engine(self, pruning: PruneConfig, *, guess: bool = False, model: OcrModel | None = None) -> Engine:
        reads = model or self.model
        task = "text" if "text" in reads.tasks else None
        settings = ReadSettings(
            model=reads.name, mode=self.mode, task=task, max_output_tokens=self.output_tokens, reread=False
        )
        return Engine(reads, settings, pruning, slots=self.slots, guess=guess)

    @property
    def pictures(self) -> list[Image.Image]:
        return [page.picture for page in self.pages]

    @property
    def endless(self) -> bool:
        """Whether every answer is as long as the token limit, as with random weights."""
        return not self.model.end_token_ids


def bench_engine(
    model: OcrModel,
    *,
    pages: int = 16,
    repeats: int = 3,
    slots: int = 16,
    mode: str | None = None,
    output_tokens: int = 512,
    bandwidth_gb_s: float | None = None,
    reference: OcrModel | None = None,
) -> dict[str, Any]:
    """Measure reading of drawn pages of unlike length, unpruned and pruned dynamically.

    Ways: `generate` page by page and in static batches (left-padded, sorted as they come), the engine without guesses,
    with guesses from its own output, and with the pages' own text layers. A model whose answers never end is
    read without guesses: what it says repeats itself, or nothing.

    Args:
        mode: view size; the model's own default when absent.
        output_tokens: at which an answer is cut.
        bandwidth_gb_s: of the device's memory, 10^9 bytes a second; that of a large copy when absent.
        reference: the same model in float32, for its texts.

    Returns:
        Plain values ready for JSON: "model", "device", "dtype", "mode", "threads", "torch", "pages", "slots",
        "repeats", "output_tokens", "peak_memory_mib", "bandwidth_gb_s", "bandwidth_measured" (whether by a copy);
        "ways": by pruning ("unpruned", "dynamic") and way an `EngineCost`; "prefill": a `PrefillCost`; "decode_step":
        by pruning a `StepCost` or null; "gflops_per_page": by pruning a `PageFlops` in 10^9, mean over the pages, or
        null; "not_measured": in words, what these figures do not tell.

    Raises:
        UsageError: the model does not have that mode.
        RTPruneError: a page was not read.
    """
    drawn = drawn_pages(pages, built_in=model.name == BUILT_IN)
    budget = affordable(model, slots, output_tokens, kernels_of(model))
    bench = _Bench(model, drawn, mode, budget.slots, output_tokens, repeats)
    engine = bench.engine(PRUNINGS["unpruned"])
    bandwidth = bandwidth_gb_s or copy_bandwidth_gb_s(model.device)
    with torch.inference_mode():
        views = [model.prepare(picture, engine.mode) for picture in bench.pictures]
        features = model.encode(views)
    batch, arithmetic = Batch(model, engine.task, views, features, bench.slots), arithmetic_of(model)
    found: dict[str, Any] = {
        "model": model.name,
        "device": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "cpu",
        "dtype": str(model.dtype).removeprefix("torch."),
        "mode": engine.mode,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "pages": pages,
        "slots": bench.slots,
        "repeats": repeats,
        "output_tokens": output_tokens,
        "bandwidth_gb_s": bandwidth,
        "bandwidth_measured": bandwidth_gb_s is None,
        "prefill": asdict(batch.prefill(repeats)),
        "decode_step": {},
        "ways": {},
        "gflops_per_page": {},
        "not_measured": _not_measured(bench, reference),
    }
    for name, pruning in PRUNINGS.items():
        step = batch.step(pruning, output_tokens, arithmetic, bandwidth)
        found["decode_step"][name] = step and asdict(step)
        costs, results = _compare(bench, pruning, reference)
        found["ways"][name] = {way: asdict(cost) for way, cost in costs.items()}
        found["gflops_per_page"][name] = _gflops(bench, views, results)
    found["peak_memory_mib"] = round(_peak_bytes(model.device) / 2**20)
    return found


@torch.inference_mode()
def by_generate(
    engine: Engine, pictures: Sequence[Image.Image], batch: int, output_tokens: int = 512
) -> list[PageResult]:
    """Pages read by transformers' `generate` from the same pruned prompts, ``batch`` at a time."""
    results: list[PageResult] = []
    model: Any = engine.model
    for begin in range(0, len(pictures), batch):
        prompts, facts = [], []
        for picture in pictures[begin : begin + batch]:
            views, _, pruned = engine.prune_page(picture)
            prompts.append(assemble_prompt(model, engine.task, views.layout, pruned))
            facts.append(pruned.facts)
        for ids, fact in zip(_generated(model, prompts, output_tokens), facts, strict=True):
            text = model.parse(model.detokenize(ids)).text
            results.append(PageResult("ok", text, facts=fact, output_tokens=len(ids), decode_steps=len(ids)))
    return results


def _generated(model: Any, prompts: Sequence[PromptEmbeddings], most: int) -> list[list[int]]:
    embeddings, positions, real = _padded_left(prompts)
    ends = sorted(model.end_token_ids)
    said = model.network.generate(
        inputs_embeds=embeddings,
        attention_mask=real.long(),
        position_ids=positions if len(positions) > 1 else positions[0],
        max_new_tokens=most,
        do_sample=False,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    ).tolist()
    cut = [next((at + 1 for at, token in enumerate(ids) if token in ends), len(ids)) for ids in said]
    return [ids[:end] for ids, end in zip(said, cut, strict=True)]


def _padded_left(prompts: Sequence[PromptEmbeddings]) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings [B, n, D], positions [A, B, n] and bool [B, n], false where padded, of prompts of unlike length."""
    longest = max(len(prompt.embeddings) for prompt in prompts)
    short = [longest - len(prompt.embeddings) for prompt in prompts]
    pairs = list(zip(prompts, short, strict=True))
    real = torch.arange(longest) >= torch.tensor(short)[:, None]
    return (
        torch.stack([functional.pad(prompt.embeddings, (0, 0, missing, 0)) for prompt, missing in pairs]),
        torch.stack([functional.pad(prompt.positions, (missing, 0)) for prompt, missing in pairs], dim=1),
        real.to(prompts[0].embeddings.device),
    )


def _compare(
    bench: _Bench, pruning: PruneConfig, reference: OcrModel | None
) -> tuple[dict[str, EngineCost], list[PageResult]]:
    """Every way's cost, and what the engine gave."""
    pictures, layers, most = bench.pictures, [page.text_layer for page in bench.pages], bench.output_tokens
    plain = bench.engine(pruning)
    singles = pictures[:FEW_PAGES] if bench.endless else pictures
    batches = pictures[:STATIC_BATCH] if bench.endless else pictures
    ways: dict[str, Callable[[], list[PageResult]]] = {
        "generate, page by page": lambda: by_generate(plain, singles, 1, most),
        f"generate, batches of {STATIC_BATCH}": lambda: by_generate(plain, batches, STATIC_BATCH, most),
        "engine": lambda: bench.engine(pruning).read(pictures),
    }
    if not bench.endless:
        ways["engine, guessing"] = lambda: bench.engine(pruning, guess=True).read(pictures)
        ways["engine, with text layers"] = lambda: bench.engine(pruning, guess=True).read(pictures, layers)
    truth = by_generate(bench.engine(pruning, model=reference), pictures, 1, most) if reference else None
    render_ms = sum(page.render_ms for page in bench.pages)
    costs: dict[str, EngineCost] = {}
    first: list[PageResult] = []
    by_engine: list[PageResult] = []
    for name, read in ways.items():
        read()  # warm up
        seconds, results = [], []
        for _ in range(bench.repeats):
            begin = clock_ms(bench.model.device)
            results = read()
            seconds.append((clock_ms(bench.model.device) - begin) / 1000)
        _require_read(results, name)
        first = first or results
        by_engine = results if name == "engine" else by_engine
        costs[name] = _cost(results, seconds, render_ms, first, truth)
    return costs, by_engine


def _require_read(results: Sequence[PageResult], way: str) -> None:
    for number, result in enumerate(results, 1):
        if result.status == "failed":
            raise RTPruneError(f"{way}: drawn page {number} was not read: {result.message}")


def _cost(
    results: Sequence[PageResult],
    seconds: Sequence[float],
    render_ms: float,
    first: Sequence[PageResult],
    truth: Sequence[PageResult] | None,
) -> EngineCost:
    middle = statistics.median(seconds)
    stages = {name: sum(getattr(result.timings, f"{name}_ms") for result in results) for name in STAGES[1:]}
    by_stages = sum(stages.values()) > 0  # `generate` does not tell them
    stages = {"render": render_ms, **stages}
    total = sum(stages.values())
    return EngineCost(
        len(results),
        round(len(results) / middle, 3),
        Milliseconds(*(round(value, 3) for value in (min(seconds), middle, max(seconds)))),
        round(sum(result.output_tokens for result in results) / middle, 1),
        sum(result.decode_steps for result in results),
        {name: round(spent / len(results), 3) for name, spent in stages.items()} if by_stages else None,
        {name: round(spent / total, 3) for name, spent in stages.items()} if by_stages else None,
        _equal(results, first),
        None if truth is None else _equal(results, truth),
    )


def _equal(results: Sequence[PageResult], others: Sequence[PageResult]) -> float:
    """Share of equal texts among the pages that both have read."""
    pairs = list(zip(results, others, strict=False))
    return round(sum(one.text == other.text for one, other in pairs) / len(pairs), 4)


def _gflops(bench: _Bench, views: Sequence[Views], results: Sequence[PageResult]) -> dict[str, float] | None:
    arithmetic = arithmetic_of(bench.model)
    if arithmetic is None:
        return None
    pages = [
        asdict(arithmetic.page(view, result.prompt_tokens, result.output_tokens))
        for view, result in zip(views, results, strict=True)
    ]
    return {stage: round(statistics.mean(page[stage] for page in pages) / 1e9, 3) for stage in pages[0]}


def _not_measured(bench: _Bench, reference: OcrModel | None) -> list[str]:
    missing = []
    if bench.model.device.type != "cuda":
        missing.append("a GPU: these are figures of the CPU")
    if bench.endless:
        missing.append("text: weights are random, equal text counts equal tokens and nothing else")
        missing.append("guessing: what random weights say repeats itself, and is in no text layer")
    if reference is None and bench.model.dtype != torch.float32:
        missing.append("difference from float32: only the built-in model is read in both")
    if arithmetic_of(bench.model) is None:
        missing.append("FLOPs and the bound of a decode step: known for DeepSeek-OCR's architecture only")
    return missing


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def report(found: dict[str, Any]) -> str:
    """The measurements as a table."""
    lines = [
        f"{found['model']} on {found['device']}, {found['dtype']}, mode {found['mode']}, {found['threads']} CPU "
        f"threads, {found['slots']} slots, {found['pages']} pages, at most {found['output_tokens']} tokens each, "
        f"medians of {found['repeats']} runs"
    ]
    for pruning, ways in found["ways"].items():
        lines.append(
            f"{pruning:<28}{'pages/s':>9}{'faster':>9}{'tokens/s':>10}{'steps':>8}{'equal text':>12}{'as float32':>12}"
        )
        slowest = next(iter(ways.values()))["pages_per_s"]
        for name, cost in ways.items():
            line = f"  {name:<26}{cost['pages_per_s']:>9.2f}{cost['pages_per_s'] / slowest:>8.1f}x"
            line += f"{cost['tokens_per_s']:>10.0f}{cost['decode_steps']:>8}{cost['equal_text']:>11.0%} "
            same = cost["equal_float32"]
            lines.append(f"{line}{'-' if same is None else f'{same:.0%}':>11} ")
    lines.append(f"{'ms of a page, engine':<28}{''.join(f'{stage:>10}' for stage in STAGES)}")
    for pruning, ways in found["ways"].items():
        spent = ways["engine"]["ms_per_page"]
        lines.append(f"  {pruning:<26}{''.join(f'{spent[stage]:>10.2f}' for stage in STAGES)}")
    lines.append(_prefill_line(found["prefill"]))
    lines += [_step_line(name, cost, found) for name, cost in found["decode_step"].items()]
    for pruning, counts in found["gflops_per_page"].items():
        if counts:
            listed = ", ".join(f"{stage} {count:.1f}" for stage, count in counts.items())
            lines.append(f"GFLOPs of a page, {pruning}: {listed}")
    lines.append(f"peak memory {found['peak_memory_mib']} MiB")
    lines += [f"not measured: {what}" for what in found["not_measured"]]
    return "\n".join(line.rstrip() for line in lines)


def _prefill_line(cost: dict[str, Any]) -> str:
    return (
        f"prefill incl. pruning: unpruned {cost['unpruned']['median']:.2f} ms, pruned {cost['pruned']['median']:.2f} "
        f"ms ({cost['prune']['median']:.2f} of it pruning), {cost['gain']:.2f} x; of a page, {cost['pages']} together, "
        f"{cost['tokens_unpruned']:.0f} -> {cost['tokens_pruned']:.0f} visual tokens"
    )


def _step_line(pruning: str, cost: dict[str, Any] | None, found: dict[str, Any]) -> str:
    if cost is None:
        return f"decode step, {pruning}: not measured, pages ended at once"
    line = f"decode step, {pruning}: {cost['step']['median']:.2f} ms for {cost['pages']} pages"
    if cost["bound_ms"] is None:
        return line
    touched = "an unknown number" if cost["experts_touched"] is None else cost["experts_touched"]
    source = "as a copy has it" if found["bandwidth_measured"] else "as given"
    return (
        f"{line}; {cost['read_mb']:.1f} MB to read at {found['bandwidth_gb_s']:.1f} GB/s ({source}) "
        f"bound it to {cost['bound_ms']:.2f} ms: {cost['over_bound']:.2f} x that; "
        f"of a layer's experts {cost['experts_expected']} were expected, {touched} touched"
    )
