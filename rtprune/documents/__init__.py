"""Objects in, page pictures out: listing sources, opening documents, rendering pages. Knows no model and no dataset."""

from __future__ import annotations

from rtprune.documents.document import Document, open_document, read_object
from rtprune.documents.pages import PageFault, PageImage, render_pages
from rtprune.documents.renderers import Renderers
from rtprune.documents.rendering import PageRange, Rendering
from rtprune.documents.sources import ObjectList, SourceObject, list_objects

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
