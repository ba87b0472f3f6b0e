"""A page's pixels, as they travel between processes."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image


@dataclass(frozen=True)
class Raster:
    """Pixels of three bytes, red, green, blue, in rows from the top.

    They are kept as bytes, because a page would be packed into Pillow's own form and out of it twice on its way.
    Where ``data`` is a view of another object's memory, that is its ``owner``.
    """

    width: int
    height: int
    data: bytes | memoryview = field(repr=False)
    owner: object = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, picture: Image.Image) -> Raster:
        """The pixels of an RGB picture."""
        return cls(picture.width, picture.height, picture.tobytes())

    @property
    def picture(self) -> Image.Image:
        """Mode RGB; made anew each time."""
        return Image.frombytes("RGB", (self.width, self.height), self.data)
