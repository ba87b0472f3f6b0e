"""What pruning costs, against the published formulation and against the prefill it shortens."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from rtprune.engine.decoding import clock_ms
from rtprune.engine.prompts import assemble_prompt
from rtprune.models.preparation import MODES, prepare
from rtprune.models.protocol import OcrModel, Views
from rtprune.pruning import PruneConfig, Pruned, prune
from rtprune.pruning.reference import prune_as_published

WIDTH = 1280  # of DeepSeek-OCR's visual tokens
PAGE_SIZE = (1240, 1754)  # A4 at 150 dpi
WARM_UP = 2


@dataclass(frozen=True)
class Milliseconds:
    """Of repeated runs of one thing."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class PruneCost:
    """One mode of one model.

    Attributes:
        tokens_before: length of the visual sequence.
        tokens_after: after dynamic pruning.
        ours: of `rtprune.prune`.
        published: of the published formulation on the same input.
        speedup: published / ours, medians.
        prefill_unpruned: of the decoder over the whole prompt; absent where no model was given.
        prefill_pruned: over the pruned prompt, without pruning itself.
        share_of_prefill: ours / prefill_unpruned, medians.
        prefill_speedup: prefill_unpruned / (ours + prefill_pruned), medians: what pruning gains with its cost counted.
    """

    tokens_before: int
    tokens_after: int
    ours: Milliseconds
    published: Milliseconds
    speedup: float
    prefill_unpruned: Milliseconds | None = None
    prefill_pruned: Milliseconds | None = None
    share_of_prefill: float | None = None
    prefill_speedup: float | None = None


@torch.inference_mode()
def bench_prune(model: OcrModel | None = None, *, repeats: int = 20, device: str = "cpu") -> dict[str, Any]:
    """Measure every mode: on random features of DeepSeek-OCR's width, or on a model's own and with its prefill.

    Returns:
        Machine, model and, by mode, `PruneCost` as plain values ready for JSON.
    """
    place = torch.device(device) if model is None else model.device
    costs = {}
    for mode in MODES if model is None else model.modes:
        views = prepare(page(), mode) if model is None else model.prepare(page(), mode)
        features = random_features(views).to(place) if model is None else model.encode([views])[0].float()
        costs[mode] = asdict(_cost(features, views, model, repeats, place))
    return {
        "model": model.name if model else f"random features of width {WIDTH}",
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": repeats,
        "modes": costs,
    }


def _cost(features: Tensor, views: Views, model: OcrModel | None, repeats: int, place: torch.device) -> PruneCost:
    view = views.to(place).global_view
    pruned = prune(features, views.layout, view)
    ours = measured(lambda: prune(features, views.layout, view), repeats, place)
    published = measured(lambda: prune_as_published(features, views.layout, view), repeats, place)
    cost = PruneCost(
        pruned.facts.tokens_before, pruned.facts.tokens_after, ours, published, round(published.median / ours.median, 2)
    )
    if model is None:
        return cost
    unpruned = prune(features, views.layout, config=PruneConfig(ratio=0.0))
    whole = measured(prefill(model, views, unpruned), repeats, place)
    shorter = measured(prefill(model, views, pruned), repeats, place)
    return replace(
        cost,
        prefill_unpruned=whole,
        prefill_pruned=shorter,
        share_of_prefill=round(ours.median / whole.median, 4),
        prefill_speedup=round(whole.median / (ours.median + shorter.median), 3),
    )


def prefill(model: OcrModel, views: Views, pruned: Pruned) -> Callable[[], object]:
    """One prefill of the model's default task around ``pruned``."""
    prompt = assemble_prompt(model, model.default_task, views.layout, pruned)
    return lambda: model.decoder(prompt.embeddings[None], prompt.positions[:, None])


def measured(call: Callable[[], object], repeats: int, device: torch.device) -> Milliseconds:
    """Time of ``call`` over ``repeats`` runs, after two that do not count."""
    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(repeats):
        begin = clock_ms(device)
        call()
        times.append(clock_ms(device) - begin)
    return Milliseconds(*(round(value, 3) for value in (min(times), statistics.median(times), max(times))))


def random_features(views: Views) -> Tensor:
    """float32 [L, 1280] of which about a sixth is pruned, as the paper reports of real pages."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(views.layout.length, WIDTH, generator=generator)
    return noise + 0.95 * torch.randn(1, WIDTH, generator=generator)


def page() -> Image.Image:
    """A page of lines that have the density of print."""
    picture = Image.new("RGB", PAGE_SIZE, "white")
    pen = ImageDraw.Draw(picture)
    chance = torch.Generator().manual_seed(0)
    for top in range(120, PAGE_SIZE[1] - 120, 28):
        left = 120
        while left < PAGE_SIZE[0] - 140:
            width = int(torch.randint(4, 14, (), generator=chance))
            pen.rectangle((left, top, left + width // 2, top + 14), fill="black")
            left += width
    return picture


def report(found: dict[str, Any]) -> str:
    """The measurements as a table."""
    lines = [
        f"{found['model']} on {found['device']}, {found['threads']} threads, {found['repeats']} runs, medians in ms",
        f"{'mode':<8}{'tokens':>14}{'ours':>9}{'published':>11}{'faster':>8}{'prefill':>9}{'pruned':>8}{'gain':>7}",
    ]
    for mode, cost in found["modes"].items():
        tokens = f"{cost['tokens_before']} -> {cost['tokens_after']}"
        line = f"{mode:<8}{tokens:>14}{cost['ours']['median']:>9.2f}{cost['published']['median']:>11.2f}"
        line += f"{cost['speedup']:>7.1f}x"
        if cost["prefill_unpruned"]:
            line += f"{cost['prefill_unpruned']['median']:>9.1f}{cost['prefill_pruned']['median']:>8.1f}"
            line += f"{cost['prefill_speedup']:>6.2f}x"
        lines.append(line)
    return "\n".join(lines)
