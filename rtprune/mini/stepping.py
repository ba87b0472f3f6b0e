"""One step of training; a GPU records it once for each shape of batch and plays it again, as launching costs most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import MethodType

import torch
from torch import Tensor, nn
from transformers.models.unlimited_ocr.modeling_unlimited_ocr import (
    UnlimitedOcrSamVisionAttention,
    UnlimitedOcrTextExperts,
)

from rtprune.mini.lessons import Batch

WARM_UP = 3  # steps before a recording: kernels are chosen and the optimiser's state is made by then


@dataclass
class Step:
    """Losses, gradients and one move of the optimiser.

    Attributes:
        losses: the loss of a batch, and what is told of it.
        optimiser: moves the parameters.
    """

    losses: Callable[[Batch], tuple[Tensor, Tensor]]
    optimiser: torch.optim.Optimizer

    def __call__(self, batch: Batch) -> Tensor:
        """Learn from ``batch``; what is told of it."""
        loss, measures = self.losses(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self.optimiser.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        self.optimiser.step()
        return measures


@dataclass
class RecordedStep(Step):
    """The same as a CUDA graph."""

    _recordings: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Batch, Tensor]] = field(default_factory=dict)

    def __call__(self, batch: Batch) -> Tensor:
        """Learn from ``batch``, from the first one of its shape four times over."""
        shape = batch.ids.shape
        if shape not in self._recordings:
            self._recordings[shape] = self._record(batch)
        graph, place, measures = self._recordings[shape]
        for name, tensor in vars(place).items():
            tensor.copy_(getattr(batch, name))
        graph.replay()
        return measures.clone()

    def _record(self, batch: Batch) -> tuple[torch.cuda.CUDAGraph, Batch, Tensor]:
        place = Batch(**{name: tensor.clone() for name, tensor in vars(batch).items()})
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                super().__call__(place)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # pages are pinned meanwhile
            measures = super().__call__(place)
        return graph, place, measures


def make_recordable(model: nn.Module) -> None:
    """Replace the parts of a model that ask the GPU for numbers, or that a CPU compiles anew for every shape."""
    for module in model.modules():
        if isinstance(module, UnlimitedOcrTextExperts):
            module.forward = MethodType(all_experts, module)
        if isinstance(module, UnlimitedOcrSamVisionAttention):
            module.get_rel_pos = MethodType(relative_positions, module)


def all_experts(experts: UnlimitedOcrTextExperts, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """What the chosen experts make of ``hidden`` [n, D], by asking all of them.

    A CPU kernel is compiled anew for every shape; groups of ever changing size would spend most of a step on that.
    """
    gates = torch.zeros(len(hidden), experts.num_experts, device=hidden.device).scatter_add(1, chosen, weights.float())
    gate, up = torch.einsum("nd,eod->eno", hidden, experts.gate_up_proj).chunk(2, dim=-1)
    out = torch.einsum("enh,edh->end", experts.act_fn(gate) * up, experts.down_proj)
    return torch.einsum("end,ne->nd", out, gates.to(out.dtype)).to(hidden.dtype)


def relative_positions(attention: nn.Module, queries: int, keys: int, table: Tensor) -> Tensor:
    """Rows of a ``table`` [2n - 1, C] of relative positions for n queries and n keys, [n, n, C]: row q - k + n - 1.

    Without an index, which would be fetched from the CPU in every step. Raises ``ValueError`` for another length.
    """
    if queries != keys or len(table) != 2 * keys - 1:
        raise ValueError(f"{len(table)} relative positions do not fit {queries} queries and {keys} keys")
    return table.flip(0).unfold(0, keys, 1).flip(0).transpose(1, 2)
