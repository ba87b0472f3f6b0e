from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pymupdf
import pytest
from PIL import Image

from rtprune.documents import PageFault, PageImage, list_objects, open_document, picture, read_object, render_pages
from rtprune.errors import DocumentError


def render(data: bytes, pages: Sequence[int] | None = None, **options) -> list[PageImage | PageFault]:
    document = open_document("name", data)
    return list(render_pages(document, pages or range(1, document.page_count + 1), **options))


def pixels(page: PageImage | PageFault) -> np.ndarray:
    assert isinstance(page, PageImage), page
    assert page.picture.mode == "RGB"
    return np.asarray(page.picture)


def text_shown(pages: Sequence[PageImage | PageFault], originals: Sequence[PageImage | PageFault]) -> list[int | None]:
    """For each page, which original it looks like; None for a fault."""
    looks = [pixels(original).tobytes() for original in originals]
    return [None if isinstance(page, PageFault) else looks.index(pixels(page).tobytes()) for page in pages]


# PDF


def test_a_pdf_page_is_rendered_as_the_published_runner_does(make_pdf):
    data = make_pdf("one", "two", width=612, height=792)
    page = render(data, [2])[0]
    with pymupdf.open(stream=data) as pdf:
        expected = pdf[1].get_pixmap(matrix=pymupdf.Matrix(2, 2), alpha=False)
    assert (page.page, page.width, page.height, page.scale) == (2, 1224, 1584, 1.0)
    assert pixels(page).tobytes() == expected.samples
    assert page.render_ms > 0


def test_a_page_brings_the_text_it_carries_itself(make_pdf):
    first, second = render(make_pdf("one word", "another"))
    assert (first.text_layer.strip(), second.text_layer.strip()) == ("one word", "another")


def test_a_text_layer_that_cannot_be_had_costs_no_page(make_pdf, monkeypatch):
    def broken(*unused, **options):
        raise RuntimeError("no such font")

    monkeypatch.setattr(pymupdf.Page, "get_text", broken)
    (page,) = render(make_pdf("one"))
    assert page.text_layer == ""
    assert page.width > 0


def test_pages_come_in_the_order_asked_for(make_pdf):
    data = make_pdf("one", "two", "three")
    assert text_shown(render(data, [3, 1, 3]), render(data)) == [2, 0, 2]


def test_dpi_scales_a_pdf_page(make_pdf):
    assert render(make_pdf("one", width=300, height=200), dpi=72)[0].picture.size == (300, 200)


@pytest.mark.parametrize("size", [(612.0, 792.0), (3.0, 14000.0), (14000.0, 3.0), (8000.0, 8000.0), (333.3, 777.7)])
def test_a_page_above_the_pixel_cap_is_rendered_smaller(size, make_pdf):
    page = render(make_pdf("one", width=size[0], height=size[1]), max_pixels=40_000)[0]
    assert 0.5 * 40_000 <= page.width * page.height <= 40_000
    assert page.scale < 1
    assert page.height == pytest.approx(size[1] * 2 * page.scale, abs=1.5)


def test_a_rotated_page_is_shown_as_it_is_meant(make_pdf):
    with pymupdf.open(stream=make_pdf("one", width=300, height=200)) as pdf:
        pdf[0].set_rotation(90)
        turned = pdf.tobytes()
    assert render(turned)[0].picture.size == (400, 600)


def test_an_encrypted_document_renders_with_the_password_it_was_opened_with(make_pdf):
    data = make_pdf("one", encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="sesame", owner_pw="owner")
    pages = list(render_pages(open_document("name", data, "sesame"), [1]))
    assert text_shown(pages, render(make_pdf("one"))) == [0]


@pytest.mark.parametrize("count", [b"0", b"1", b"null", b"99999999"])
def test_a_wrong_page_count_loses_no_page(count, make_pdf):
    data = make_pdf("one", "two")
    assert text_shown(render(data.replace(b"/Count 2", b"/Count " + count)), render(data)) == [0, 1]


def test_pages_of_a_deep_tree_come_in_order_with_what_they_inherit(make_pdf):
    data = make_pdf("one", "two", "three")
    with pymupdf.open(stream=data) as pdf:
        leaves = [pdf.page_xref(index) for index in range(3)]
        root = int(pdf.xref_get_key(pdf.pdf_catalog(), "Pages")[1].split()[0])
        node = pdf.get_new_xref()
        # The node's count is a lie, its box is what its pages inherit.
        pdf.update_object(
            node,
            f"<</Type/Pages/Parent {root} 0 R/Count 7/MediaBox[0 0 300 200]/Kids[{leaves[1]} 0 R {leaves[2]} 0 R]>>",
        )
        for leaf in leaves[1:]:
            pdf.xref_set_key(leaf, "Parent", f"{node} 0 R")
            pdf.xref_set_key(leaf, "MediaBox", "null")
        pdf.xref_set_key(root, "Kids", f"[{leaves[0]} 0 R {node} 0 R]")
        nested = pdf.tobytes()
    assert text_shown(render(nested), render(data)) == [0, 1, 2]


def test_a_missing_page_is_a_fault_not_a_blank(make_pdf):
    data = make_pdf("one", "two", "three")
    last_two = re.search(rb"(\d+ 0 R) (\d+ 0 R)\]", data)
    for instead in (b"99 0 R", b"null", b"1 0 R", b"2 0 R"):
        broken = data.replace(last_two[0], instead + b" " + last_two[2] + b"]")
        pages = render(broken)
        assert text_shown(pages, render(data)) == [0, None, 2], instead
        assert (pages[1].page, pages[1].reason) == (2, "damaged")


def test_a_page_object_that_cannot_be_parsed_costs_only_its_page(make_pdf):
    data = make_pdf("one", "two", "three")
    second = re.search(rb"/Kids\[\d+ 0 R (\d+) 0 R", data)[1]
    start = data.index(b"\n" + second + b" 0 obj")
    broken = data[:start] + data[start:].replace(b"<<", b"<<]", 1)
    assert text_shown(render(broken), render(data)) == [0, None, 2]


def test_pages_claimed_beyond_the_tree_are_faults(make_pdf):
    data = make_pdf("one", "two")
    pages = render(data.replace(b"/Count 2", b"/Count 3"))
    assert text_shown(pages, render(data)) == [0, 1, None]


def test_a_page_whose_contents_cannot_be_drawn_is_a_fault_and_harms_no_other(make_pdf):
    data = make_pdf("one", "two", "three")
    with pymupdf.open(stream=data) as pdf:
        pdf.update_stream(pdf[1].get_contents()[0], b"<< (((( [ not a page", compress=False)
        broken = pdf.tobytes()
    pages = render(broken)
    assert text_shown(pages, render(data)) == [0, None, 2]
    assert pages[1].reason == "damaged"


def test_an_empty_page_is_a_page():
    with pymupdf.open() as pdf:
        pdf.new_page()
        page = render(pdf.tobytes())[0]
    assert (pixels(page) == 255).all()


def test_a_page_beyond_the_last_is_a_fault(make_pdf):
    pages = render(make_pdf("one"), [0, 1, 2])
    assert [getattr(page, "reason", "read") for page in pages] == ["no-such-page", "read", "no-such-page"]


def test_nothing_is_printed_about_a_damaged_pdf(make_pdf, capfd):
    data = make_pdf("one", "two")
    for damaged in (data[: len(data) // 2], data.replace(b"Tf", b"(((")):
        render(damaged)
    assert capfd.readouterr() == ("", "")


# Pictures


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF"])
def test_a_picture_comes_back_pixel_for_pixel(kind, drawing, encode):
    page = render(encode(drawing, kind, **({"lossless": True} if kind == "WEBP" else {})))[0]
    assert (pixels(page) == np.asarray(drawing)).all()
    assert (page.width, page.height, page.scale) == (80, 40, 1.0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA", "RGBA", "PA"])
def test_every_mode_becomes_rgb(mode, drawing, encode):
    kind = "TIFF" if mode in {"CMYK", "PA"} else "PNG"
    assert np.abs(pixels(render(encode(drawing.convert(mode), kind))[0]).astype(int) - np.asarray(drawing)).max() <= 2


def test_a_cmyk_jpeg_is_not_inverted(drawing, encode):
    shown = pixels(render(encode(drawing.convert("CMYK"), "JPEG", quality=95))[0])
    assert shown[30, 60].min() > 240
    assert shown[3, 5].max() < 30


def test_transparent_parts_are_white_paper(encode):
    hidden = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    hidden.paste((0, 0, 0, 255), (0, 0, 5, 10))
    palette = Image.new("P", (20, 10), 1)
    palette.putpalette([0, 0, 0, 0, 0, 0])
    palette.paste(0, (0, 0, 5, 10))
    for data in (encode(hidden, "PNG"), encode(hidden, "WEBP", lossless=True), encode(palette, "PNG", transparency=1)):
        shown = pixels(render(data)[0])
        assert (shown[:, :5] == 0).all()
        assert (shown[:, 5:] == 255).all()


@pytest.mark.parametrize("bytes_per_grey", [2, 4])
def test_deep_greys_are_scaled_not_clipped(bytes_per_grey, encode):
    greys = np.linspace(0, 65535, 256).astype("uint16" if bytes_per_grey == 2 else "float32").reshape(16, 16)
    if bytes_per_grey == 4:
        greys = greys / np.float32(65535)
    shown = pixels(render(encode(Image.fromarray(greys), "TIFF"))[0])[..., 0]
    assert np.abs(shown.astype(int) - np.arange(256).reshape(16, 16)).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright(kind, orientation, drawing, encode):
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how a camera held that way would have stored it
    stored = drawing.transpose(undo[orientation]) if orientation in undo else drawing
    page = render(encode(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})))[0]
    assert page.picture.size == (80, 40)
    assert np.abs(pixels(page)[:8, :16].astype(int)).max() < 60  # the dark corner
    assert pixels(page)[12:, 24:].min() > 200


def test_tiff_frames_are_pages(drawing, encode):
    frames = [drawing, drawing.rotate(180), drawing.resize((30, 70))]
    pages = render(encode(drawing, "TIFF", save_all=True, append_images=frames[1:]))
    assert [
        (page.page, (pixels(page) == np.asarray(frame)).all()) for page, frame in zip(pages, frames, strict=True)
    ] == [
        (1, True),
        (2, True),
        (3, True),
    ]


def test_a_damaged_frame_harms_no_other(encode):
    noise = np.random.default_rng(1).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    frames = [Image.fromarray(np.roll(noise, turn, axis=1)) for turn in range(3)]
    data = bytearray(
        encode(frames[0], "TIFF", save_all=True, append_images=frames[1:], compression="tiff_adobe_deflate")
    )
    middle = len(data) // 2
    data[middle - 600 : middle + 600] = bytes(1200)
    pages = render(bytes(data))
    assert (pixels(pages[0]) == np.asarray(frames[0])).all()
    assert (pixels(pages[2]) == np.asarray(frames[2])).all()
    assert (pages[1].page, pages[1].reason) == (2, "damaged")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_truncated_picture_is_a_fault(kind, encode):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    data = encode(noise, kind)
    with pytest.raises((AssertionError, DocumentError)):
        pixels(render(data[: len(data) // 2])[0])


@pytest.mark.parametrize("mode", ["1", "P", "L", "RGBA"])
def test_a_picture_above_the_pixel_cap_is_made_smaller(mode, drawing, encode):
    large = drawing.resize((1600, 800), 0)
    page = render(encode(large.convert(mode), "PNG"), max_pixels=90_000)[0]
    assert page.picture.size == (400, 200)
    assert page.scale == pytest.approx(0.25)
    assert (pixels(page) == np.asarray(drawing.resize((400, 200), 0))).all()


def test_strips_of_a_large_picture_join_without_a_seam(encode, monkeypatch):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (203, 307, 3), dtype=np.uint8))
    monkeypatch.setattr(picture, "STRIP_PIXELS", 5000)
    page = render(encode(noise, "PNG"), max_pixels=7000)[0]
    assert (pixels(page) == np.asarray(noise.reduce(3))).all()


def test_a_large_jpeg_is_decoded_small_in_the_first_place(drawing, encode, monkeypatch):
    data = encode(drawing.resize((1600, 800)), "JPEG")
    monkeypatch.setattr(picture, "MAX_DECODED_BYTES", 1600 * 800)  # a quarter of what decoding in full takes
    page = render(data, max_pixels=100_000)[0]
    assert page.picture.size == (400, 200)
    assert pixels(page)[150, 300].min() > 240


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {}), ("TIFF", {}), ("JPEG", {"progressive": True})]
)
def test_a_picture_too_large_to_decode_is_a_fault_that_says_so(kind, options, drawing, encode, monkeypatch):
    monkeypatch.setattr(picture, "MAX_DECODED_BYTES", 10_000)
    page = render(encode(drawing, kind, **options))[0]
    assert isinstance(page, PageFault)
    assert page.reason == "too-large"
    assert "80 x 40" in page.message


def test_a_header_that_claims_a_giant_costs_nothing(drawing, encode):
    data = bytearray(encode(drawing, "BMP"))
    data[18:26] = (60_000).to_bytes(4, "little") * 2
    assert render(bytes(data))[0].reason == "too-large"


def test_a_damaged_exif_block_loses_no_picture(drawing, encode):
    data = encode(drawing, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(20))
    assert render(data)[0].picture.size == (80, 40)


def test_pillow_s_own_limit_does_not_hold(drawing, encode, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert isinstance(render(encode(drawing, "PNG"))[0], PageImage)


# Corruption


def corrupted(data: bytes, randomly: random.Random) -> bytes:
    """``data`` cut, with bits flipped, a stretch blanked or bytes lost."""
    broken = bytearray(data)
    start = randomly.randrange(len(data))
    match randomly.randrange(4):
        case 0:
            del broken[start:]
        case 1:
            for _ in range(randomly.choice([1, 10, 100])):
                broken[randomly.randrange(len(data))] ^= 1 << randomly.randrange(8)
        case 2:
            broken[start : start + 200] = bytes(len(broken[start : start + 200]))
        case _:
            del broken[start : start + randomly.randrange(1, 50)]
    return bytes(broken)


@pytest.mark.parametrize("kind", ["pdf", "encrypted pdf", "PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_corrupted_document_gives_pages_or_one_error(kind, make_pdf, drawing, encode):
    locked = {"encryption": pymupdf.PDF_ENCRYPT_RC4_128, "user_pw": "", "owner_pw": "owner"}
    if kind.endswith("pdf"):
        good = make_pdf("one", "two", "three", width=150, height=100, **(locked if kind != "pdf" else {}))
    else:
        good = encode(drawing, kind, **({"save_all": True, "append_images": [drawing]} if kind == "TIFF" else {}))
    randomly, kinds = random.Random(kind), set()
    for _ in range(50):
        data = corrupted(good, randomly)
        try:
            document = open_document("name", data)
        except DocumentError as error:
            kinds.add(error.reason)
            continue
        pages = list(render_pages(document, range(1, document.page_count + 1), dpi=72))
        assert [page.page for page in pages] == list(range(1, document.page_count + 1))
    assert kinds <= {"not-a-document", "damaged", "no-pages", "encrypted"}


# Shared files


def test_first_and_last_page_of_every_shared_document_are_rendered(shared_data: Path):
    faults, shrunk, pages = [], [], 0
    for folder in ("pages", "broken", "images"):
        for found in list_objects(str(shared_data / folder / "*.*")):
            try:
                document = open_document(found.uri, read_object(found.uri), "1234")
            except DocumentError:
                continue
            for page in render_pages(document, sorted({1, document.page_count}), dpi=36):
                pages += 1
                if isinstance(page, PageFault):
                    faults.append((found.uri, page))
                elif page.scale < 1:
                    shrunk.append(Path(found.uri).name)
    assert (faults, shrunk, pages) == ([], [], 54)


def test_a_page_of_35000_pixels_is_rendered_within_the_cap(shared_data: Path):
    file = shared_data / "broken" / "hugemono.pdf"
    page = render(file.read_bytes(), max_pixels=4_000_000)[0]
    assert page.width * page.height <= 4_000_000
    assert page.scale < 0.2
    assert 0 < (pixels(page) < 128).mean() < 0.1  # there is something written on it
