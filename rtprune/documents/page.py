"""What becomes of a page on its way out of a document: a picture, or a fault. Knows nothing of how it is made."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image

from rtprune.documents.raster import Raster
from rtprune.errors import Reason


@dataclass(frozen=True)
class PageImage:
    """A page as a picture.

    Attributes:
        page: 1-based.
        raster: its pixels, upright.
        render_ms: time it took to decode or render.
        scale: linear scale of the picture against what was asked for (the dpi, or the picture's own pixels);
            below 1 where the page would have had more pixels than allowed.
        text_layer: text that the page carries itself, as born-digital and some scanned PDF pages do; else empty.
    """

    page: int
    raster: Raster = field(compare=False)
    render_ms: float
    scale: float = 1.0
    text_layer: str = field(default="", repr=False, compare=False)

    @property
    def picture(self) -> Image.Image:
        """Mode RGB; made anew each time."""
        return self.raster.picture

    @property
    def width(self) -> int:
        """Pixels."""
        return self.raster.width

    @property
    def height(self) -> int:
        """Pixels."""
        return self.raster.height


@dataclass(frozen=True)
class PageFault:
    """A page that could not be made into a picture.

    Attributes:
        page: 1-based.
        reason: why not: the page's own reason, or why the document does not open.
        message: what is wrong with it.
        render_ms: time spent on it.
    """

    page: int
    reason: Reason
    message: str
    render_ms: float
