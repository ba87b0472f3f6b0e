"""Picture files by Pillow: known by content, measured before they are decoded, made 8-bit RGB on white.

Pillow's plugins are called directly. ``Image.open`` would guess among all formats it knows, and refuse large pictures
by a limit that holds for the whole process; ours is here, and is about memory.
"""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from rtprune.errors import DocumentError, Reason

# Damaged metadata are reported by thousands, and lose nothing.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

#: Memory that decoding one picture may take. Only JPEG can be decoded at a smaller scale.
MAX_DECODED_BYTES = 2 * 2**30

STRIP_PIXELS = 16_000_000  # what is converted at once while a large picture is made smaller

PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "png": PngImageFile,
    "jpeg": JpegImageFile,
    "webp": WebPImageFile,
    "bmp": BmpImageFile,
    "tiff": TiffImageFile,
}

BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}  # in memory; 4 for all others

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by the value of the EXIF tag Orientation


def picture_format(data: bytes | memoryview) -> str | None:
    """The picture format that ``data`` is in by its first bytes, a key of ``PLUGINS``; None if it is no picture."""
    data = bytes(data[:20])
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(b"BM") and data[14:18] in {bytes([size, 0, 0, 0]) for size in (12, 40, 52, 56, 64, 108, 124)}:
        return "bmp"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "tiff"
    return None


def open_picture(data: bytes | memoryview) -> ImageFile.ImageFile:
    """Read the header of the picture in ``data``, nothing more.

    Raises:
        DocumentError: "damaged".
    """
    try:
        return PLUGINS[picture_format(data) or ""](io.BytesIO(data))
    except Exception as error:  # damaged headers make Pillow raise nearly anything
        raise DocumentError(Reason.DAMAGED, f"the picture's header cannot be read: {error}") from error


def count_frames(data: bytes | memoryview, uri: str) -> int:
    """Pages of the picture in ``data``: the frames of a TIFF file; of an animation only the first picture counts.

    A frame whose header is damaged hides those behind it; it counts as a page, which fails when it is rendered.

    Raises:
        DocumentError: "damaged", if not even the first frame's header can be read.
    """
    try:
        picture = open_picture(data)
    except DocumentError as error:
        raise DocumentError(error.reason, f"{uri}: {error.message}") from error
    if not isinstance(picture, TiffImageFile):
        return 1
    frames = 1
    while True:
        try:
            picture.seek(frames)
        except EOFError:
            return frames
        except Exception:
            return frames + 1
        frames += 1


def read_frame(picture: ImageFile.ImageFile, frame: int, max_pixels: int) -> tuple[Image.Image, float]:
    """One frame decoded, upright by its EXIF orientation, as 8-bit RGB, transparent parts white; and its scale.

    A frame of more than ``max_pixels`` is made smaller by a whole factor; then the scale is below 1.

    Args:
        frame: 0-based.

    Raises:
        DocumentError: "too-large" when decoding would take more than ``MAX_DECODED_BYTES``, else "damaged".
    """
    try:
        if frame:
            picture.seek(frame)
        width, height = picture.size
        _prepare_decoding(picture, max_pixels)
        picture.load()
        upright = UPRIGHT.get(_orientation(picture))
        shrunk = _shrink(_to_eight_bits(picture), max_pixels)
        scale = math.sqrt(shrunk.width * shrunk.height / (width * height))
        return shrunk.transpose(upright) if upright is not None else shrunk, min(1.0, scale)
    except DocumentError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise DocumentError(Reason.TOO_LARGE, f"the picture does not fit into memory: {error}") from error
    except Exception as error:  # damaged data make Pillow raise nearly anything
        raise DocumentError(Reason.DAMAGED, f"the picture cannot be decoded: {error}") from error


def _prepare_decoding(picture: ImageFile.ImageFile, max_pixels: int) -> None:
    """Let a JPEG be decoded at the smallest scale that serves; refuse what would take too much memory."""
    width, height = picture.size
    needed = width * height * BYTES_PER_PIXEL.get(picture.mode, 4)
    if isinstance(picture, JpegImageFile):
        factor = _factor(width, height, max_pixels)
        if factor > 1:
            # The decoder takes the largest of 1, 2, 4, 8 that leaves at least the size asked for.
            picture.draft(None, (max(1, width // factor), max(1, height // factor)))
        needed = picture.width * picture.height * BYTES_PER_PIXEL.get(picture.mode, 4)
        if picture.info.get("progressive"):
            needed += width * height * len(picture.getbands()) * 2  # all coefficients are kept
    if needed > MAX_DECODED_BYTES:
        raise DocumentError(
            Reason.TOO_LARGE,
            f"decoding a picture of {width} x {height} pixels takes {needed / 2**30:.1f} GiB of memory, "
            f"more than the {MAX_DECODED_BYTES / 2**30:.0f} GiB allowed",
            "make it smaller, or a JPEG that is not progressive",
        )


def _orientation(picture: Image.Image) -> int:
    """Value of the EXIF tag Orientation; 1, upright, where there is none or it cannot be read."""
    try:
        value: object = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF block is no reason to lose the page
        return 1
    return value if isinstance(value, int) else 1


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    """Deeper greys brought to 8 bits, where Pillow's own conversion would make all of them white."""
    if picture.mode not in {"I", "F"} and not picture.mode.startswith("I;16"):
        return picture
    grey: np.ndarray[Any, Any] = np.asarray(picture)
    if picture.mode == "F":
        grey = np.nan_to_num(grey) * (255.0 if np.nanmax(grey) <= 1.0 else 1.0)
    elif picture.mode.startswith("I;16"):
        grey = grey >> 8
    elif grey.max() > 255:
        grey = grey >> (8 if grey.max() < 2**16 else 23)
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def _factor(width: int, height: int, max_pixels: int) -> int:
    """Smallest whole factor by which to divide both sides so that about ``max_pixels`` are left at most."""
    return math.ceil(math.sqrt(width * height / max_pixels))


def _shrink(picture: Image.Image, max_pixels: int) -> Image.Image:
    """``picture`` as RGB with about ``max_pixels`` at most, converted strip by strip where it is larger."""
    factor = _factor(picture.width, picture.height, max_pixels)
    if factor <= 1:
        return _on_white(picture)
    small = Image.new("RGB", (math.ceil(picture.width / factor), math.ceil(picture.height / factor)))
    rows = factor * max(1, STRIP_PIXELS // (picture.width * factor))
    for top in range(0, picture.height, rows):
        strip = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        small.paste(_on_white(strip).reduce(factor), (0, top // factor))
    return small


def _on_white(picture: Image.Image) -> Image.Image:
    """``picture`` as RGB, white where it is transparent: merely dropping alpha bares a hidden colour, often black."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
