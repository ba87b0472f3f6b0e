"""How fast pages are read: the engine against transformers' own `generate`, on the same pages and with equal text."""

from __future__ import annotations

import resource
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from rtprune.bench.prune import Milliseconds
from rtprune.engine import Engine
from rtprune.engine.decoding import PromptEmbeddings, assemble_prompt, clock_ms, pad_left
from rtprune.engine.result import PageResult
from rtprune.mini.generator import draw_page
from rtprune.models.protocol import OcrModel
from rtprune.pruning import PruneConfig
from rtprune.settings import ReadSettings

STATIC_BATCH = 8
SEED = 7


@dataclass(frozen=True)
class EngineCost:
    """One way of reading the pages.

    Attributes:
        pages_per_s: of the repeated runs, the median.
        seconds: of a run over all pages.
        tokens_per_s: output tokens, median.
        decode_steps: of all pages, prefills included: fewer than the output's tokens where guesses are right.
        time_share: where the engine's time went; absent for `generate`.
        equal_text: share of pages whose text is that of the first way.
    """

    pages_per_s: float
    seconds: Milliseconds
    tokens_per_s: float
    decode_steps: int
    time_share: dict[str, float] | None
    equal_text: float


def bench_engine(model: OcrModel, *, pages: int = 16, repeats: int = 3, slots: int = 16) -> dict[str, Any]:
    """Measure reading of drawn pages of unlike length, unpruned and pruned.

    Ways: `generate` page by page and in static batches (left-padded, sorted as they come), the engine without guesses,
    with guesses from its own output, and with the pages' true text as their text layer.

    Returns:
        Machine, model and, by pruning and way, `EngineCost` as plain values ready for JSON.
    """
    rng = np.random.default_rng(SEED)
    drawn = [draw_page(rng, "evaluation") for _ in range(pages)]
    pictures = [Image.fromarray(page.picture).convert("RGB") for page in drawn]
    layers = [page.text for page in drawn]
    found: dict[str, dict[str, Any]] = {}
    for name, pruning in (("unpruned", PruneConfig(ratio=0.0)), ("dynamic", PruneConfig())):
        settings = ReadSettings(model=model.name, task="text", max_output_tokens=512)

        def engine(*, guess: bool, pruning: PruneConfig = pruning, settings: ReadSettings = settings) -> Engine:
            return Engine(model, settings, pruning, slots=slots, guess=guess)

        ways: dict[str, Callable[[], list[PageResult]]] = {
            "generate, page by page": lambda: by_generate(engine(guess=False), pictures, 1),
            f"generate, batches of {STATIC_BATCH}": lambda: by_generate(engine(guess=False), pictures, STATIC_BATCH),
            "engine": lambda: engine(guess=False).read(pictures),
            "engine, guessing": lambda: engine(guess=True).read(pictures),
            "engine, with text layers": lambda: engine(guess=True).read(pictures, layers),
        }
        found[name] = _compare(ways, repeats, model.device)
    return {
        "model": model.name,
        "device": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "cpu",
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "pages": pages,
        "slots": slots,
        "repeats": repeats,
        "peak_memory_mib": round(_peak_bytes(model.device) / 2**20),
        "ways": found,
    }


@torch.inference_mode()
def by_generate(engine: Engine, pictures: Sequence[Image.Image], batch: int) -> list[PageResult]:
    """Pages read by transformers' `generate` from the same pruned prompts, ``batch`` at a time."""
    results: list[PageResult] = []
    model: Any = engine.model
    for begin in range(0, len(pictures), batch):
        prompts, facts = [], []
        for picture in pictures[begin : begin + batch]:
            views, _, pruned = engine.prune_page(picture)
            prompts.append(assemble_prompt(model, engine.task, views.layout, pruned))
            facts.append(pruned.facts)
        for ids, fact in zip(_generated(model, prompts), facts, strict=True):
            text = model.parse(model.detokenize(ids)).text
            results.append(PageResult("ok", text, facts=fact, output_tokens=len(ids), decode_steps=len(ids)))
    return results


def _generated(model: Any, prompts: Sequence[PromptEmbeddings], most: int = 512) -> list[list[int]]:
    embeddings, positions, real = pad_left(prompts)
    ends = sorted(model.end_token_ids)
    said = model.network.generate(
        inputs_embeds=embeddings,
        attention_mask=real.long(),
        position_ids=positions if len(positions) > 1 else positions[0],
        max_new_tokens=most,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=ends[0],
    ).tolist()
    cut = [next((at + 1 for at, token in enumerate(ids) if token in ends), len(ids)) for ids in said]
    return [ids[:end] for ids, end in zip(said, cut, strict=True)]


def _compare(ways: dict[str, Callable[[], list[PageResult]]], repeats: int, device: torch.device) -> dict[str, Any]:
    costs, texts = {}, None
    for name, read in ways.items():
        read()  # warm up
        seconds, results = [], []
        for _ in range(repeats):
            begin = clock_ms(device)
            results = read()
            seconds.append((clock_ms(device) - begin) / 1000)
        texts = texts or [result.text for result in results]
        costs[name] = asdict(_cost(results, seconds, texts))
    return costs


def _cost(results: Sequence[PageResult], seconds: Sequence[float], texts: Sequence[str]) -> EngineCost:
    middle = statistics.median(seconds)
    times = [result.timings for result in results]
    names = ("encode", "prune", "prefill", "decode")
    stages = {name: sum(getattr(time, f"{name}_ms") for time in times) for name in names}
    total = sum(stages.values())
    return EngineCost(
        round(len(results) / middle, 2),
        Milliseconds(*(round(value, 3) for value in (min(seconds), middle, max(seconds)))),
        round(sum(result.output_tokens for result in results) / middle, 1),
        sum(result.decode_steps for result in results),
        {name: round(spent / total, 3) for name, spent in stages.items()} if total else None,
        round(sum(result.text == text for result, text in zip(results, texts, strict=True)) / len(texts), 4),
    )


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def report(found: dict[str, Any]) -> str:
    """The measurements as a table."""
    lines = [
        f"{found['model']} on {found['device']}, {found['dtype']}, {found['threads']} threads, {found['slots']} slots, "
        f"{found['pages']} pages, medians of {found['repeats']} runs"
    ]
    for pruning, ways in found["ways"].items():
        lines.append(f"{pruning:<28}{'pages/s':>9}{'faster':>9}{'tokens/s':>10}{'steps':>8}{'equal text':>12}")
        slowest = next(iter(ways.values()))["pages_per_s"]
        for name, cost in ways.items():
            line = f"  {name:<26}{cost['pages_per_s']:>9.2f}{cost['pages_per_s'] / slowest:>8.1f}x"
            lines.append(f"{line}{cost['tokens_per_s']:>10.0f}{cost['decode_steps']:>8}{cost['equal_text']:>11.0%}")
    return "\n".join(lines)
