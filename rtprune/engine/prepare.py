"""A page before the device sees it: its picture as views, its text layer as tokens. May run in any thread."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from PIL.Image import Image

from rtprune.errors import DocumentError, Reason
from rtprune.models.protocol import OcrModel, Views


class Page(Protocol):
    """What the engine reads; its picture is taken when it is needed, and not kept."""

    @property
    def picture(self) -> Image:
        """8 bits a channel, opaque; see ``rtprune.documents`` for what makes such of any file."""

    @property
    def text_layer(self) -> str:
        """What the page says of itself; empty where it does not."""


@dataclass(frozen=True, eq=False)
class PlainPage:
    """A page that is a picture, and perhaps text."""

    picture: Image
    text_layer: str = ""


@dataclass(frozen=True, eq=False)
class PreparedPage:
    """A page whose views are made already.

    Attributes:
        page: what it was made of, for another way of reading it.
        views: its views in one mode.
        layer: token ids of its text layer.
        prepare_ms: time that took.
    """

    page: Page
    views: Views
    layer: tuple[int, ...]
    prepare_ms: float

    @property
    def picture(self) -> Image:
        """The page's own."""
        return self.page.picture

    @property
    def text_layer(self) -> str:
        """The page's own."""
        return self.page.text_layer


def prepared(model: OcrModel, page: Page, mode: str) -> PreparedPage:
    """``page`` for ``model`` in ``mode``; one that is prepared in that mode is given back as it is.

    Raises:
        DocumentError: the picture cannot be shown to the model.
    """
    if isinstance(page, PreparedPage):
        if page.views.mode == mode:
            return page
        page = page.page
    start = time.perf_counter()
    views, text = model.prepare(page.picture, mode), page.text_layer
    if views.layout.free_count == 0:
        raise DocumentError(Reason.NO_VISUAL_TOKENS, "the picture gives no visual tokens: there is nothing to read")
    layer = tuple(model.tokenize(text)) if text else ()
    return PreparedPage(page, views, layer, (time.perf_counter() - start) * 1000.0)
