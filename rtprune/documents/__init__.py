"""Objects in, page pictures out: listing sources, opening documents, rendering pages. Knows no model and no dataset.

Each is loaded when first asked for: a renderer lists no sources, a driver renders no pages.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtprune.documents.document import Document, open_document, read_object
    from rtprune.documents.page import PageFault, PageImage
    from rtprune.documents.pages import render_pages
    from rtprune.documents.renderers import Renderers
    from rtprune.documents.rendering import PageRange, Rendering
    from rtprune.documents.sources import ObjectList, SourceObject, list_objects

_HOMES = {
    "Document": "document",
    "ObjectList": "sources",
    "PageFault": "page",
    "PageImage": "page",
    "PageRange": "rendering",
    "Renderers": "renderers",
    "Rendering": "rendering",
    "SourceObject": "sources",
    "list_objects": "sources",
    "open_document": "document",
    "read_object": "document",
    "render_pages": "pages",
}

__all__ = [
    "Document",
    "ObjectList",
    "PageFault",
    "PageImage",
    "PageRange",
    "Renderers",
    "Rendering",
    "SourceObject",
    "list_objects",
    "open_document",
    "read_object",
    "render_pages",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
