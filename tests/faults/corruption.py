"""Good documents made on the spot, and what happens to files: each damage is decided by a seed."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable, Iterator

import pymupdf
from PIL import Image, ImageDraw

Damage = Callable[[bytes, random.Random], bytes]

PAGES = 3
REPEATS = 3  # of each damage to each document


def pdf(words: str, pages: int = PAGES, **saving: object) -> bytes:
    """A PDF whose pages say ``words`` and their number; ``saving`` as PyMuPDF has it."""
    with pymupdf.open() as document:
        for number in range(1, pages + 1):
            document.new_page(width=150, height=100).insert_text((10, 50), f"{words} {number}", fontsize=12)
        return bytes(document.tobytes(no_new_id=True, **saving))


def picture(words: str, kind: str, frames: int = 1, **saving: object) -> bytes:
    """A picture of ``words`` as Pillow saves it; one of several ``frames`` has a frame for each."""
    drawn = [Image.new("RGB", (120, 60), (255, 255, 255 - number)) for number in range(frames)]
    for number, frame in enumerate(drawn, start=1):
        ImageDraw.Draw(frame).text((10, 20), f"{words} {number}", fill="black")
    more = {"save_all": True, "append_images": drawn[1:]} if frames > 1 else {}
    file = io.BytesIO()
    drawn[0].save(file, kind, **more, **saving)
    return file.getvalue()


def good_documents() -> dict[str, bytes]:
    """One of each kind, by a name whose ending tells the kind."""
    return {
        "plain.pdf": pdf("plain"),
        "packed.pdf": pdf("packed", deflate=True, use_objstms=1),
        "scan.tiff": picture("scan", "TIFF", PAGES, compression="tiff_adobe_deflate"),
        "fax.tiff": picture("fax", "TIFF", PAGES),
        "drawing.png": picture("drawing", "PNG"),
        "photo.jpeg": picture("photo", "JPEG"),
    }


def truncated(data: bytes, dice: random.Random) -> bytes:
    """Cut somewhere."""
    return data[: dice.randrange(1, len(data))]


def flipped(data: bytes, dice: random.Random) -> bytes:
    """With some bits the other way round."""
    broken = bytearray(data)
    for _ in range(dice.choice([1, 10, 100])):
        broken[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(broken)


def headed(data: bytes, dice: random.Random) -> bytes:
    """The header of a PDF and no more, but for its version."""
    return b"%%PDF-1.%d\n" % dice.randrange(8)


def appended(data: bytes, dice: random.Random) -> bytes:
    """With garbage behind it."""
    return data + dice.randbytes(dice.randrange(1, 5000))


def prepended(data: bytes, dice: random.Random) -> bytes:
    """With garbage before it, no more than a header may have before it."""
    return dice.randbytes(dice.randrange(1, 1000)) + data


def unindexed(data: bytes, dice: random.Random) -> bytes:
    """Without a table of its objects that could be used."""
    places = [found.end() for found in re.finditer(rb"startxref\s+|\nxref\s+|/W *\[ *", data)]
    broken = bytearray(data)
    for place in places:
        broken[place : place + 4] = b"%04d" % dice.randrange(10_000)
    return bytes(broken)


def drained(data: bytes, dice: random.Random) -> bytes:
    """With a stretch of every stream overwritten."""
    broken = bytearray(data)
    for found in re.finditer(rb"stream\r?\n(.+?)endstream", data, re.DOTALL):
        start = found.start(1) + dice.randrange(found.end(1) - found.start(1))
        broken[start : found.end(1)] = dice.randbytes(found.end(1) - start)
    return bytes(broken)


#: What loses no page of a PDF.
HARMLESS: tuple[Damage, ...] = (appended, prepended, unindexed)
OF_PDF: tuple[Damage, ...] = (truncated, flipped, headed, drained, *HARMLESS)
OF_PICTURES: tuple[Damage, ...] = (truncated, flipped)


def damaged_documents(seed: int) -> Iterator[tuple[str, Damage, bytes]]:
    """Name, damage and bytes of every document damaged in every way, ``REPEATS`` times."""
    dice = random.Random(seed)
    for name, data in good_documents().items():
        for damage in OF_PDF if name.endswith(".pdf") else OF_PICTURES:
            for number in range(REPEATS):
                stem, ending = name.split(".")
                yield f"{stem}-{damage.__name__}-{number}.{ending}", damage, damage(data, dice)


def misnamed_documents() -> dict[str, bytes]:
    """Files that are not what their names say, empty ones among them."""
    return {
        "a-picture.pdf": picture("a picture", "PNG"),
        "a-tiff.jpeg": picture("a tiff", "TIFF", 2),
        "a-document.png": pdf("a document", 1),
        "a-text.tiff": b"only words",
        "a-program": b"\x7fELF" + bytes(200),
        "empty.pdf": b"",
        "empty.png": b"",
        "empty": b"",
    }
