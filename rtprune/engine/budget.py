"""How many pages may be decoded together, from the memory that is free."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from rtprune.engine.kernels import PLAIN, Kernels
from rtprune.models.protocol import OcrModel

_log = logging.getLogger(__name__)

#: Share of the free memory that the cache may take. The rest is for views, encoders and other processes.
GPU_SHARE, CPU_SHARE = 0.6, 0.4
PROMPT_TOKENS = 1500  # more than all but the largest prompts have
PAGE_TOKENS = 2500  # prompt and answer of all but the longest pages, which take what others leave


@dataclass(frozen=True)
class Budget:
    """What the cache may hold.

    Attributes:
        slots: pages decoded together.
        tokens: of all of them.
    """

    slots: int
    tokens: int


def budget_for(free: int, bytes_per_token: int, most: int, longest: int, *, pooled: bool) -> Budget:
    """Slots and tokens that fit into ``free`` bytes: from 1 to ``most`` slots, and one page of the ``longest`` always.

    Args:
        pooled: whether pages share their tokens; else each slot has to hold a page of the longest.
    """
    tokens = free // max(1, bytes_per_token)
    slots = max(1, min(most, tokens // (min(PAGE_TOKENS, longest) if pooled else longest)))
    return Budget(slots, max(longest, min(tokens, slots * longest) if pooled else slots * longest))


def affordable(model: OcrModel, most: int, max_tokens: int, kernels: Kernels = PLAIN) -> Budget:
    """Room for pages whose answers have at most ``max_tokens``; a word in the log where memory lacks for ``most``."""
    free, longest = free_bytes(model.device), PROMPT_TOKENS + max_tokens
    if free is None:
        return Budget(most, most * longest)
    share = int(free * (GPU_SHARE if model.device.type == "cuda" else CPU_SHARE))
    found = budget_for(share, model.cache_bytes_per_token, most, longest, pooled=kernels.fused)
    _log.log(
        logging.WARNING if found.slots < most else logging.INFO,
        "%d of %d slots: the cache may take %.1f GiB of memory, a page of %d tokens takes %.2f GiB",
        found.slots,
        most,
        share / 2**30,
        longest,
        model.cache_bytes_per_token * longest / 2**30,
    )
    return found


def free_bytes(device: torch.device) -> int | None:
    """Memory that nobody has, in bytes; ``None`` where the system does not tell."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own free blocks
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(found["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in found else None
