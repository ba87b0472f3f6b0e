"""Documents to text at the lowest cost that can be trusted: DeepSeek-OCR with RTPrune's visual token pruning."""

from __future__ import annotations

__version__ = "0.1.0"
