"""Documents to text at the lowest cost that can be trusted: DeepSeek-OCR with RTPrune's visual token pruning.

What users import stands here. It is loaded when first asked for, so that ``rtprune --help`` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtprune.dataset import Output, read_documents, read_pages, statistics
    from rtprune.engine import Engine, PageResult, PlainPage
    from rtprune.models import load_model, register_model_family
    from rtprune.models.attach import Attachment, attach, detach
    from rtprune.pruning import (
        Cues,
        PruneConfig,
        Pruned,
        PruneFacts,
        TokenLayout,
        prune,
        prune_batch,
        register_method,
    )
    from rtprune.settings import ReadSettings, RunSettings

__version__ = "0.1.0"

_HOMES = {
    "Attachment": "rtprune.models.attach",
    "Cues": "rtprune.pruning",
    "Engine": "rtprune.engine",
    "Output": "rtprune.dataset",
    "PageResult": "rtprune.engine",
    "PlainPage": "rtprune.engine",
    "PruneConfig": "rtprune.pruning",
    "PruneFacts": "rtprune.pruning",
    "Pruned": "rtprune.pruning",
    "ReadSettings": "rtprune.settings",
    "RunSettings": "rtprune.settings",
    "TokenLayout": "rtprune.pruning",
    "attach": "rtprune.models.attach",
    "detach": "rtprune.models.attach",
    "load_model": "rtprune.models",
    "prune": "rtprune.pruning",
    "prune_batch": "rtprune.pruning",
    "read_documents": "rtprune.dataset",
    "read_pages": "rtprune.dataset",
    "register_method": "rtprune.pruning",
    "register_model_family": "rtprune.models",
    "statistics": "rtprune.dataset",
}

__all__ = [
    "Attachment",
    "Cues",
    "Engine",
    "Output",
    "PageResult",
    "PlainPage",
    "PruneConfig",
    "PruneFacts",
    "Pruned",
    "ReadSettings",
    "RunSettings",
    "TokenLayout",
    "attach",
    "detach",
    "load_model",
    "prune",
    "prune_batch",
    "read_documents",
    "read_pages",
    "register_method",
    "register_model_family",
    "statistics",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
