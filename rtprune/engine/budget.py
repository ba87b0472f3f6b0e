"""How many pages may be decoded together, from the memory that is free."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from rtprune.models.protocol import OcrModel

_log = logging.getLogger(__name__)

#: Share of the free memory that the cache may take. The rest is for views, encoders and other processes.
GPU_SHARE, CPU_SHARE = 0.6, 0.4
PROMPT_TOKENS = 1500  # more than all but the largest prompts have


def slots_that_fit(free: int, bytes_per_page: int, most: int) -> int:
    """Pages whose caches fit into ``free`` bytes: from 1 to ``most``."""
    return max(1, min(most, free // max(1, bytes_per_page)))


def affordable_slots(model: OcrModel, most: int, max_tokens: int) -> int:
    """Slots for pages of the longest answer, at most ``most``; fewer, and a word in the log, where memory lacks."""
    free = free_bytes(model.device)
    if free is None:
        return most
    budget = int(free * (GPU_SHARE if model.device.type == "cuda" else CPU_SHARE))
    per_page = model.cache_bytes_per_token * (PROMPT_TOKENS + max_tokens)
    slots = slots_that_fit(budget, per_page, most)
    _log.log(
        logging.WARNING if slots < most else logging.INFO,
        "%d of %d slots: the cache may take %.1f GiB of memory, a page of %d tokens takes %.2f GiB",
        slots,
        most,
        budget / 2**30,
        PROMPT_TOKENS + max_tokens,
        per_page / 2**30,
    )
    return slots


def free_bytes(device: torch.device) -> int | None:
    """Memory that nobody has, in bytes; ``None`` where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(found["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in found else None
