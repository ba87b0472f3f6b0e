"""Pages in, texts out, on one device: batching, decoding, guards."""

from __future__ import annotations

from rtprune.engine.engine import Engine, Page, PlainPage
from rtprune.engine.result import FinishReason, PageResult, PageStatus, Timings
from rtprune.engine.skipping import Skipping

__all__ = ["Engine", "FinishReason", "Page", "PageResult", "PageStatus", "PlainPage", "Skipping", "Timings"]
