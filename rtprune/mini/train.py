"""Train the built-in checkpoint: ``python -m rtprune.mini.train --folder training``.

Three stages. The encoder first, taught to name the character in every small cell; then the decoder on the frozen
encoder, taught where to look and what to write; then both together. Pages grow from one aligned monospaced font to
several fonts and sizes as each lesson is mastered. The state is saved every few minutes and found again by the next
start with the same folder.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from transformers import UnlimitedOcrForConditionalGeneration
from transformers.models.unlimited_ocr.modeling_unlimited_ocr import UnlimitedOcrTextExperts, apply_rotary_pos_emb

from rtprune.mini.architecture import CONFIG, initialise_by_fan_in, tokenizer
from rtprune.mini.generator import Page, PageDesign, draw_page
from rtprune.mini.lessons import (
    IGNORED,
    Batch,
    CellHeads,
    CountingHeads,
    gaze_loss,
    make_batch,
    place_loss,
    premise_loss,
)
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.models.family import published_state_dict
from rtprune.models.weights import save_tensors

LESSONS = (
    PageDesign(aligned=True),
    PageDesign(),
    PageDesign(sizes=(12.5, 13.5)),
    PageDesign(fonts=("cour", "cobo"), sizes=(11.5, 13.5)),
    PageDesign(fonts=("cour", "cobo", "helv", "hebo"), sizes=(11.5, 13.5)),
    PageDesign(fonts=("cour", "cobo", "helv", "hebo", "tiro", "tibo"), sizes=(11.0, 14.0)),
)
FULL_PAGE = (90, 90)  # more words than fit: the encoder learns most from full pages
PASS_MARK = 0.93  # share of character cells named before the encoder's next lesson starts
#: nats a character before the next lesson starts: beside a frozen encoder early, the whole model when it reads
PASS_LOSS = {"decoder": 0.5, "joint": 0.05}
#: learning rates at the beginning and the end of a stage; 1e-3 in the last one makes the encoder forget its letters
RATES = {"encoder": (1e-3, 1e-4), "decoder": (1e-3, 1e-4), "joint": (3e-4, 1e-5)}
PLACE_LAYER, GAZE_LAYER = 1, 2
SAVE_EVERY_S = 120.0


@dataclass
class Progress:
    """Where training stands; saved with the weights."""

    stage: str = "encoder"
    lesson: int = 0
    step: int = 0
    pages: int = 0


class Team:
    """Processes that train one model on pages of their own, averaging gradients; alone unless told otherwise."""

    def __init__(self, rank: int = 0, size: int = 1, meeting: Path | None = None) -> None:
        self.rank, self.size = rank, size
        if size > 1:
            dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)

    def average(self, parameters: list[torch.nn.Parameter], values: list[float]) -> list[float]:
        """Make every gradient the team's mean; returns the means of ``values``."""
        if self.size == 1:
            return values
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([torch.tensor(values), *(gradient.flatten() for gradient in gradients)])
        dist.all_reduce(flat)
        flat /= self.size
        start = len(values)
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        return [float(value) for value in flat[: len(values)]]


class Trainer:
    """A model and its progress, kept in one folder; every stage has an optimiser of its own."""

    def __init__(
        self, folder: Path, words: tuple[int, int] = PageDesign().words, seed: int = 0, team: Team | None = None
    ) -> None:
        self.folder = folder
        self.team = team or Team()
        self.words = words
        self.progress = Progress()
        self.rng = np.random.default_rng([seed, self.team.rank])
        config = DeepSeekOcr.configuration(CONFIG)
        self.model = UnlimitedOcrForConditionalGeneration(config)
        initialise_by_fan_in(self.model, torch.Generator().manual_seed(seed))
        self.heads = CellHeads(config.vision_config.sam_config.output_channels, config.text_config.hidden_size)
        self.counting = CountingHeads(config.text_config.hidden_size)
        self.patches: list[Tensor] = []
        self.model.model.vision_tower.sam_encoder.neck.register_forward_hook(
            lambda module, inputs, output: self.patches.append(output)
        )
        for module in self.model.modules():
            if isinstance(module, UnlimitedOcrTextExperts):
                module.forward = MethodType(all_experts, module)
        self.gaze: dict[str, Tensor] = {}
        for layer in (PLACE_LAYER, GAZE_LAYER):
            attention = self.model.model.language_model.layers[layer].self_attn
            attention.q_proj.register_forward_hook(self._keep(f"queries{layer}"))
            attention.k_proj.register_forward_hook(self._keep(f"keys{layer}"))
        self.model.model.language_model.layers[GAZE_LAYER].register_forward_pre_hook(self._keep_hidden)
        if (folder / "state.pt").exists():
            self._load()

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Visual tokens [B, G*G, D] and the SAM neck's output [B, C, S/16, S/16] of ``pixels`` [B, 3, S, S]."""
        self.patches.clear()
        features = self.model.model.vision_tower(pixels).last_hidden_state
        return self.model.model.multi_modal_projector(features), self.patches[0]

    def decode(self, tokens: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Losses of the next character, of where the decoder looks, and of numbering what is seen and told."""
        inner = self.model.model
        pages, count, size = tokens.shape
        grid = math.isqrt(count)
        rows = tokens.reshape(pages, grid, grid, size)
        rows = torch.cat([rows, inner.image_newline.expand(pages, grid, 1, size)], dim=2).flatten(1, 2)
        block = torch.cat([rows, inner.view_separator.expand(pages, 1, size)], dim=1)
        embedded = inner.language_model.embed_tokens(batch.ids)
        embedded = torch.cat([embedded[:, :1], block, embedded[:, 1 + block.shape[1] :]], dim=1)
        seen = torch.ones_like(batch.ids, dtype=torch.bool)
        seen[:, 1 : 1 + block.shape[1]] = ~batch.pruned
        out = inner.language_model(inputs_embeds=embedded, attention_mask=seen, use_cache=False)
        logits = self.model.lm_head(out.last_hidden_state).float()
        text_loss = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)
        place = place_loss(*self._rotated(PLACE_LAYER, embedded), batch)
        gaze = gaze_loss(*self._rotated(GAZE_LAYER, embedded), batch)
        numbered = self.counting(tokens, self.gaze["hidden"], batch)
        return text_loss, gaze + 0.5 * place, *numbered

    def _keep_hidden(self, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.gaze["hidden"] = inputs[0]

    def _keep(self, name: str) -> Callable[[torch.nn.Module, Any, Tensor], None]:
        def hook(module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
            self.gaze[name] = output

        return hook

    def _rotated(self, layer: int, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys [B, heads, n, d] that ``layer`` has just used."""
        inner = self.model.model.language_model
        shape = (*embedded.shape[:2], inner.config.num_attention_heads, -1)
        queries, keys = (self.gaze[f"{name}{layer}"].view(shape).transpose(1, 2) for name in ("queries", "keys"))
        positions = torch.arange(embedded.shape[1])[None]
        rotated: tuple[Tensor, Tensor] = apply_rotary_pos_emb(queries, keys, *inner.rotary_emb(embedded, positions))
        return rotated

    def draw(self, count: int, full: bool) -> list[Page]:
        """Fresh training pages of the present lesson; a quarter repeats earlier lessons."""
        pages = []
        for _ in range(count):
            lesson = self.progress.lesson
            if lesson and self.rng.random() < 0.25:
                lesson = int(self.rng.integers(lesson))
            words = FULL_PAGE if full else self.words
            design = replace(LESSONS[lesson], words=words)
            pages.append(draw_page(self.rng, "training", design))
        return pages

    def run(self, stage: str, minutes: float, pages: int, rate: float, last_rate: float) -> None:
        """Train one stage for ``minutes``, the learning rate falling from ``rate`` to ``last_rate``."""
        self.progress.stage = stage
        parameters = self._trainable(stage)
        optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
        recent: deque[list[float]] = deque(maxlen=100)
        begin = saved = time.monotonic()
        step, elapsed = 0, 0.0
        while elapsed < minutes * 60:
            share = elapsed / (minutes * 60)
            elapsed = time.monotonic() - begin
            now = last_rate + 0.5 * (rate - last_rate) * (1 + math.cos(math.pi * share))
            for group in optimiser.param_groups:
                group["lr"] = now * min(1.0, (step + 1) / 100)
            batch = make_batch(
                self.draw(pages, stage == "encoder" and self.rng.random() < 0.8),
                self.rng,
                noise=0.0 if stage == "encoder" else 0.03,
                pruned_share=0.5 if stage == "joint" else 0.0,
            )
            loss, measures = self._losses(stage, batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            elapsed, *measures = self.team.average(parameters, [elapsed, *measures])
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            step += 1
            self.progress.step += 1
            self.progress.pages += pages * self.team.size
            recent.append(measures)
            if step % 100 == 0:
                self._report(stage, elapsed, recent)
                self._next_lesson(stage, recent)
            if time.monotonic() - saved > SAVE_EVERY_S:
                saved = time.monotonic()
                self.save()
        self.save()

    def _losses(self, stage: str, batch: Batch) -> tuple[Tensor, list[float]]:
        with torch.autocast("cpu", torch.bfloat16):
            if stage == "decoder":
                with torch.no_grad():
                    tokens, patches = self.encode(batch.pixels)
                text, gaze, _, told = self.decode(tokens, batch)
                return text + 0.5 * gaze + 0.3 * told, [text.item(), gaze.item(), told.item()]
            tokens, patches = self.encode(batch.pixels)
            by_patch, by_token, named = self.heads(patches, tokens, batch)
            premise = premise_loss(tokens, batch)
            loss = by_token + 0.5 * by_patch + 0.3 * premise
            if stage == "encoder":
                return loss, [by_token.item(), by_patch.item(), premise.item(), named.item()]
            text, gaze, seen, told = self.decode(tokens, batch)
            taught = [text, gaze, seen, told, by_token, premise, named]
            return text + 0.5 * gaze + 0.2 * (seen + told) + loss, [value.item() for value in taught]

    def _trainable(self, stage: str) -> list[torch.nn.Parameter]:
        vision = [
            *self.model.model.vision_tower.parameters(),
            *self.model.model.multi_modal_projector.parameters(),
            *self.heads.parameters(),
        ]
        known = {id(parameter) for parameter in vision}
        text = [parameter for parameter in self.model.parameters() if id(parameter) not in known]
        text += self.counting.parameters()
        return {"encoder": vision, "decoder": text, "joint": vision + text}[stage]

    def _report(self, stage: str, elapsed: float, recent: deque[list[float]]) -> None:
        if self.team.rank:
            return
        means = " ".join(f"{value:.3f}" for value in np.mean(recent, axis=0))
        print(
            f"{stage} lesson {self.progress.lesson} step {self.progress.step} pages {self.progress.pages} "
            f"{elapsed / 60:.1f} min: {means}",
            flush=True,
        )

    def _next_lesson(self, stage: str, recent: deque[list[float]]) -> None:
        if self.progress.lesson == len(LESSONS) - 1:
            return
        means = np.mean(recent, axis=0)
        if means[-1] >= PASS_MARK if stage == "encoder" else means[0] <= PASS_LOSS[stage]:
            self.progress.lesson += 1
            recent.clear()

    def save(self) -> None:
        """Write the state aside and rename it, so that a kill leaves the last good one."""
        if self.team.rank:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "counting": self.counting.state_dict(),
            "progress": vars(self.progress),
        }
        torch.save(state, self.folder / "state.part")
        (self.folder / "state.part").replace(self.folder / "state.pt")

    def export(self, folder: Path) -> None:
        """Write the checkpoint in the published layout, float16: what `load_model` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
        tokenizer().save(str(folder / "tokenizer.json"))
        save_tensors(published_state_dict(self.model), folder / "model.safetensors", torch.float16)

    def _load(self) -> None:
        state = torch.load(self.folder / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.counting.load_state_dict(state["counting"])
        self.progress = Progress(**state["progress"])
        self.rng = np.random.default_rng([self.progress.step, 1, self.team.rank])


def all_experts(experts: UnlimitedOcrTextExperts, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """What the chosen experts make of ``hidden`` [n, D], by asking all of them.

    A CPU kernel is compiled anew for every shape; groups of ever changing size would spend most of a step on that.
    """
    gates = torch.zeros(len(hidden), experts.num_experts).scatter_add(1, chosen, weights.float())
    gate, up = torch.einsum("nd,eod->eno", hidden, experts.gate_up_proj).chunk(2, dim=-1)
    out = torch.einsum("enh,edh->end", experts.act_fn(gate) * up, experts.down_proj)
    return torch.einsum("end,ne->nd", out, gates.to(out.dtype)).to(hidden.dtype)


def main() -> None:
    """Run one stage (command line)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("training"), help="where the state is kept")
    parser.add_argument("--stage", choices=["encoder", "decoder", "joint"], default="encoder")
    parser.add_argument("--minutes", type=float, default=0.0, help="how long; 0 to export only")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="write the checkpoint there afterwards")
    parser.add_argument("--pages", type=int, default=4, help="pages in a step, of each process")
    parser.add_argument("--words", type=int, nargs=2, default=PageDesign().words, help="fewest and most on a page")
    parser.add_argument("--rate", type=float, help="learning rate at the beginning; the stage's own when absent")
    parser.add_argument("--last-rate", type=float, help="learning rate at the end; the stage's own when absent")
    parser.add_argument("--processes", type=int, default=1, help="one per core; each draws and reads its own pages")
    parser.add_argument("--lesson", type=int, help="start at this lesson")
    arguments = parser.parse_args()
    if arguments.processes == 1 or not arguments.minutes:
        _train(0, arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        spawn(  # type: ignore[no-untyped-call]
            _train, (arguments, Path(folder) / "meeting"), nprocs=arguments.processes
        )


def _train(rank: int, arguments: argparse.Namespace, meeting: Path | None = None) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    size = 1 if meeting is None else arguments.processes
    trainer = Trainer(arguments.folder, tuple(arguments.words), team=Team(rank, size, meeting))
    if arguments.lesson is not None:
        trainer.progress.lesson = arguments.lesson
    if arguments.minutes:
        rate, last_rate = RATES[arguments.stage]
        rate, last_rate = arguments.rate or rate, arguments.last_rate or last_rate
        trainer.run(arguments.stage, arguments.minutes, arguments.pages, rate, last_rate)
    if rank:
        return
    if arguments.export is not None:
        trainer.export(arguments.export)
    print(json.dumps(vars(trainer.progress)))


if __name__ == "__main__":
    main()
