"""Pages in, texts out, on one device: batching, decoding, guards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtprune.engine.result import FinishReason, PageResult, PageStatus, Timings
from rtprune.engine.skipping import Skipping

if TYPE_CHECKING:
    from rtprune.engine.engine import Engine
    from rtprune.engine.prepare import Page, PlainPage

__all__ = ["Engine", "FinishReason", "Page", "PageResult", "PageStatus", "PlainPage", "Skipping", "Timings"]


def __getattr__(name: str) -> Any:
    """What needs torch, once it is asked for: a worker that reads nothing does not wait for it."""
    if name == "Engine":
        from rtprune.engine.engine import Engine

        return Engine
    if name in ("Page", "PlainPage"):
        from rtprune.engine import prepare

        return getattr(prepare, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
