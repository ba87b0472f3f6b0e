"""Documents to text at the lowest cost that can be trusted: DeepSeek-OCR with RTPrune's visual token pruning.

What users import stands here. It is loaded when first asked for, so that ``rtprune --help`` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtprune.corpus.run import run_corpus
    from rtprune.dataset import (
        Output,
        compact_dataset,
        read_documents,
        read_failures,
        read_pages,
        statistics,
        verify_dataset,
    )
    from rtprune.engine import Engine, PageResult, PlainPage
    from rtprune.errors import RTPruneError
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
    from rtprune.read_document import read
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
    "RTPruneError": "rtprune.errors",
    "ReadSettings": "rtprune.settings",
    "RunSettings": "rtprune.settings",
    "TokenLayout": "rtprune.pruning",
    "attach": "rtprune.models.attach",
    "compact_dataset": "rtprune.dataset",
    "detach": "rtprune.models.attach",
    "load_model": "rtprune.models",
    "prune": "rtprune.pruning",
    "prune_batch": "rtprune.pruning",
    "read": "rtprune.read_document",
    "read_documents": "rtprune.dataset",
    "read_failures": "rtprune.dataset",
    "read_pages": "rtprune.dataset",
    "register_method": "rtprune.pruning",
    "register_model_family": "rtprune.models",
    "run_corpus": "rtprune.corpus.run",
    "statistics": "rtprune.dataset",
    "verify_dataset": "rtprune.dataset",
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
    "RTPruneError",
    "ReadSettings",
    "RunSettings",
    "TokenLayout",
    "attach",
    "compact_dataset",
    "detach",
    "load_model",
    "prune",
    "prune_batch",
    "read",
    "read_documents",
    "read_failures",
    "read_pages",
    "register_method",
    "register_model_family",
    "run_corpus",
    "statistics",
    "verify_dataset",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
