"""Train the built-in checkpoint: ``python -m rtprune.mini.train --folder training --curriculum --minutes 60``.

Three stages. The encoder first, taught to name the character in every small cell; then the decoder on the frozen
encoder, taught where to look and what to write; then both together. Pages are drawn by processes of their own, in more
fonts and sizes as a stage goes on. The state is saved every minute and found again by the next start with the same
folder.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import UnlimitedOcrForConditionalGeneration
from transformers.models.unlimited_ocr.modeling_unlimited_ocr import apply_rotary_pos_emb

from rtprune.mini.architecture import CONFIG, initialise_by_fan_in, tokenizer
from rtprune.mini.feeding import LESSONS, WORDS, Batches, Drawing, Feed, drawn
from rtprune.mini.lessons import (
    GPU_LENGTH_STEP,
    IGNORED,
    LENGTH_STEP,
    Batch,
    CellHeads,
    CountingHeads,
    gaze_loss,
    place_loss,
    premise_loss,
)
from rtprune.mini.stepping import RecordedStep, Step, make_recordable
from rtprune.models.checkpoint import resolve
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.models.family import published_state_dict
from rtprune.models.weights import save_tensors

#: Share of the time of each stage of the curriculum.
SHARES = {"encoder": 0.4, "decoder": 0.15, "joint": 0.45}
#: Share of a stage by which its last lesson begins.
ALL_FONTS = {"encoder": 0.3, "decoder": 0.3, "joint": 0.0}
#: learning rates at the beginning and the end of a stage; 1e-3 in the last one makes the encoder forget its letters
RATES = {"encoder": (1e-3, 1e-4), "decoder": (1e-3, 2e-4), "joint": (6e-4, 1e-5)}
PLACE_LAYER, GAZE_LAYER = 1, 2
SAVE_EVERY_S, TELL_EVERY_S = 60.0, 5.0


@dataclass
class Progress:
    """Where training stands; saved with the weights."""

    stage: str = "encoder"
    lesson: int = 0
    step: int = 0
    pages: int = 0


class Trainer:
    """A model and its progress, kept in one folder; every stage has an optimiser of its own."""

    def __init__(
        self, folder: Path, words: tuple[int, int] = WORDS, seed: int = 0, device: torch.device | None = None
    ) -> None:
        self.folder = folder
        self.device = device or torch.device("cpu")
        self.words = words
        self.seed = seed
        self.drawing = Drawing.shared()
        self.progress = Progress()
        self._batches: Iterator[Batch] | None = None  # the drawing processes stay from stage to stage
        config = DeepSeekOcr.configuration(CONFIG)
        self.model = UnlimitedOcrForConditionalGeneration(config)
        initialise_by_fan_in(self.model, torch.Generator().manual_seed(seed))
        self.heads = CellHeads(config.vision_config.sam_config.output_channels, config.text_config.hidden_size)
        self.counting = CountingHeads(config.text_config.hidden_size)
        self.patches: list[Tensor] = []
        self.model.model.vision_tower.sam_encoder.neck.register_forward_hook(
            lambda module, inputs, output: self.patches.append(output)
        )
        make_recordable(self.model)
        self.gaze: dict[str, Tensor] = {}
        for layer in (PLACE_LAYER, GAZE_LAYER):
            attention = self.model.model.language_model.layers[layer].self_attn
            attention.q_proj.register_forward_hook(self._keep(f"queries{layer}"))
            attention.k_proj.register_forward_hook(self._keep(f"keys{layer}"))
        self.model.model.language_model.layers[GAZE_LAYER].register_forward_pre_hook(self._keep_hidden)
        if (folder / "state.pt").exists():
            self._load()
        for part in (self.model, self.heads, self.counting):
            part.to(self.device)

    def start_from(self, checkpoint: str) -> None:
        """Take the weights of a checkpoint, "mini" or a folder; what is only of use in training begins anew."""
        found = DeepSeekOcr.load(resolve(checkpoint), torch.device("cpu"), torch.float32)
        self.model.load_state_dict(found.network.state_dict())

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Visual tokens [B, G*G, D] and the SAM neck's output [B, C, S/16, S/16] of ``pixels`` [B, 3, S, S]."""
        self.patches.clear()
        features = self.model.model.vision_tower(pixels.contiguous()).last_hidden_state
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
        positions = torch.arange(embedded.shape[1], device=embedded.device)[None]
        rotated: tuple[Tensor, Tensor] = apply_rotary_pos_emb(queries, keys, *inner.rotary_emb(embedded, positions))
        return rotated

    def curriculum(
        self, minutes: float, pages: int, drawers: int, export: Path, shares: Sequence[float] = tuple(SHARES.values())
    ) -> None:
        """All stages in turn, in ``minutes`` together; what has been learnt is exported after each.

        Args:
            shares: of the time, for each stage.
        """
        for stage, share in zip(SHARES, shares, strict=True):
            self.run(stage, minutes * share, pages, *RATES[stage], drawers=drawers)
            self.export(export)

    def run(self, stage: str, minutes: float, pages: int, rate: float, last_rate: float, *, drawers: int = 0) -> None:
        """Train one stage for ``minutes``, the learning rate falling from ``rate`` to ``last_rate``.

        Args:
            pages: in a step.
            drawers: processes that draw them; this one does where there are none.
        """
        self.progress.stage = stage
        cuda = self.device.type == "cuda"
        optimiser = torch.optim.AdamW(
            self._trainable(stage),
            lr=torch.tensor(rate, device=self.device) if cuda else rate,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            fused=cuda,
            capturable=cuda,
        )
        learn = (RecordedStep if cuda else Step)(partial(self._losses, stage), optimiser)
        self.drawing.begin(stage, self._lesson(stage, 0.0))
        batches = self._fed(pages, drawers)
        recent: deque[Tensor] = deque(maxlen=100)
        next(batches)  # time counts from the first one on
        begin = saved = told = time.monotonic()
        step, elapsed, seen = 0, 0.0, 0
        while elapsed < minutes * 60:
            share = min(1.0, elapsed / (minutes * 60))
            lesson = self._lesson(stage, share)
            if lesson != self.progress.lesson:
                self.progress.lesson = lesson
                self.drawing.begin(stage, lesson)
            now = last_rate + 0.5 * (rate - last_rate) * (1 + math.cos(math.pi * share))
            set_rate(optimiser, now * min(1.0, (step + 1) / 100))
            recent.append(learn(next(batches)))
            step, seen = step + 1, seen + pages
            self.progress.step += 1
            self.progress.pages += pages
            elapsed = time.monotonic() - begin
            if elapsed > TELL_EVERY_S + told - begin:
                told = self._tell(stage, begin, told, seen, recent)
                seen = 0
            if elapsed > SAVE_EVERY_S + saved - begin:
                saved = time.monotonic()
                self.save()
        self.save()

    def _fed(self, pages: int, drawers: int) -> Iterator[Batch]:
        if self._batches is None:
            cuda, seed = self.device.type == "cuda", self.seed + self.progress.step
            batches = Batches(self.drawing, pages, self.words, seed, GPU_LENGTH_STEP if cuda else LENGTH_STEP)
            fresh = drawn(batches, drawers, pin=cuda)
            self._batches = Feed(fresh, self.device, seed) if cuda else fresh
        elif isinstance(self._batches, Feed):
            self._batches.forget()
        return self._batches

    def _lesson(self, stage: str, share: float) -> int:
        """The lesson at that ``share`` of a stage's time."""
        by = ALL_FONTS[stage]
        return len(LESSONS) - 1 if share >= by else int(share / by * (len(LESSONS) - 1))

    def _losses(self, stage: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss, and what is told of it: its parts, and in the end the share of characters that are named."""
        with torch.autocast(self.device.type, torch.bfloat16):
            if stage == "decoder":
                with torch.no_grad():
                    tokens, patches = self.encode(batch.normalised)
                text, gaze, _, told = self.decode(tokens, batch)
                return text + 0.5 * gaze + 0.3 * told, torch.stack([text, gaze, told]).detach()
            tokens, patches = self.encode(batch.normalised)
            by_patch, by_token, named = self.heads(patches, tokens, batch)
            premise = premise_loss(tokens, batch)
            loss = by_token + 0.5 * by_patch + 0.3 * premise
            if stage == "encoder":
                return loss, torch.stack([by_token, by_patch, premise, named]).detach()
            text, gaze, seen, told = self.decode(tokens, batch)
            taught = [text, gaze, seen, told, by_token, premise, named]
            return text + 0.5 * gaze + 0.2 * (seen + told) + loss, torch.stack(taught).detach()

    def _tell(self, stage: str, begin: float, told: float, seen: int, recent: deque[Tensor]) -> float:
        means = " ".join(f"{value:.3f}" for value in torch.stack(list(recent)).mean(dim=0).tolist())
        now = time.monotonic()
        memory = f" {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if self.device.type == "cuda" else ""
        print(
            f"{stage} lesson {self.progress.lesson} step {self.progress.step} pages {self.progress.pages} "
            f"{(now - begin) / 60:.2f} min {seen / (now - told):.0f} pages/s{memory}: {means}",
            flush=True,
        )
        return now

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

    def save(self) -> None:
        """Write the state aside and rename it, so that a kill leaves the last good one."""
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
        weights = {name: weight.cpu() for name, weight in published_state_dict(self.model).items()}
        save_tensors(weights, folder / "model.safetensors", torch.float16)

    def _load(self) -> None:
        state = torch.load(self.folder / "state.pt", weights_only=True, map_location="cpu")
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.counting.load_state_dict(state["counting"])
        self.progress = Progress(**state["progress"])


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Learn at ``rate`` from now on, in a recorded step too."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def main() -> None:
    """Run the curriculum or one stage (command line)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("training"), help="where the state is kept")
    parser.add_argument("--curriculum", action="store_true", help="all stages in turn")
    parser.add_argument("--shares", type=float, nargs=3, default=[*SHARES.values()], help="of the time, of each stage")
    parser.add_argument("--stage", choices=list(SHARES), default="encoder")
    parser.add_argument("--minutes", type=float, default=0.0, help="how long; 0 to export only")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="write the checkpoint there afterwards")
    parser.add_argument("--start-from", metavar="MODEL", help="begin with these weights: 'mini', or a folder")
    parser.add_argument("--pages", type=int, default=4, help="pages in a step")
    parser.add_argument("--words", type=int, nargs=2, default=WORDS, help="fewest and most on a page")
    parser.add_argument("--drawers", type=int, default=0, help="processes that draw pages; one for each core, but one")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    trainer = Trainer(arguments.folder, tuple(arguments.words), device=torch.device(arguments.device))
    if arguments.start_from and not trainer.progress.step:
        trainer.start_from(arguments.start_from)
    if arguments.curriculum:
        export = arguments.export or arguments.folder / "checkpoint"
        trainer.curriculum(arguments.minutes, arguments.pages, arguments.drawers, export, arguments.shares)
    elif arguments.minutes:
        rates = RATES[arguments.stage]
        trainer.run(arguments.stage, arguments.minutes, arguments.pages, *rates, drawers=arguments.drawers)
    if arguments.export is not None:
        trainer.export(arguments.export)
    print(json.dumps(vars(trainer.progress)))


if __name__ == "__main__":
    main()
