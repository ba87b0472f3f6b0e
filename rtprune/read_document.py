"""One document to text in this process: opened, rendered, read. Without Ray, Prefect or a dataset."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from operator import index
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypedDict, Unpack

from pydantic import ValidationError

from rtprune.documents import Document, PageFault, PageImage, open_document, read_object, render_pages
from rtprune.engine.result import PageResult, Timings
from rtprune.errors import DocumentError, Reason, UsageError
from rtprune.settings import PAGE_SETTINGS, RunSettings, check_variables
from rtprune.store import is_remote, require_reachable

if TYPE_CHECKING:  # torch stands behind most of these; a wrong argument is refused without waiting for it
    from PIL.Image import Image

    from rtprune.engine import Engine
    from rtprune.models.protocol import OcrModel
    from rtprune.pruning import PruneConfig

_HINTS = {
    Reason.UNREADABLE: "check its spelling; it must be one file, and `rtprune run` reads folders and prefixes",
    Reason.DAMAGED: "fetch it anew, or save it again with a program that opens it",
    Reason.ENCRYPTED: "save it without a password",
    Reason.NOT_A_DOCUMENT: "convert it to PDF, PNG, JPEG, WebP, BMP or TIFF",
    Reason.NO_PAGES: "there is nothing in it to read",
}


class PageSettings(TypedDict, total=False):
    """What `read` takes of the settings; see ``rtprune.ReadSettings``, and ``RunSettings`` for the password."""

    mode: str | None
    task: str | None
    prune: Literal["dynamic", "off"] | float
    max_output_tokens: int
    reread: bool
    dpi: int
    max_pixels: int
    password: str | None


def read(
    file: str | os.PathLike[str],
    pages: int | Iterable[int] | None = None,
    *,
    model: str | OcrModel | None = None,
    pruning: PruneConfig | None = None,
    **settings: Unpack[PageSettings],
) -> list[PageResult]:
    """The pages of one document, each with its number and its text, in the order asked for.

    A page that cannot be read is a result with status "failed", a reason and a message; the others are read all the
    same. What is not given comes from the environment (``RTPRUNE_MODE``) or is the default, as on the command line.

    Args:
        file: a PDF or picture, a local path or an ``s3://`` URI.
        pages: the number of a page, from 1, or several; all when absent.
        model: a name or folder, see ``load_model``; or a model that it has loaded, so that many documents are read
            without loading it again.
        pruning: how to prune in every detail, instead of what ``prune`` says.
        settings: fields of ``ReadSettings``, and ``password``.

    Raises:
        TypeError: an argument is of the wrong type, or there is none of that name.
        UsageError: a setting has a value that it cannot have, a variable is misspelt, or there is no such page.
        ModelError: the model cannot be had.
        DocumentError: there is no such file, or it cannot be opened; its ``reason`` says why.
        StoreError: the object store failed.
    """
    uri, numbers = _uri(file), _numbers(pages)
    if model is not None and not isinstance(model, str) and not hasattr(model, "prepare"):
        raise TypeError(f"model must be a name or what rtprune.load_model gives, not {_typed(model)}")
    known = _settings({**settings, "model": model} if isinstance(model, str) else {**settings})
    if pruning is not None:
        from rtprune.pruning import PruneConfig

        if not isinstance(pruning, PruneConfig):
            raise TypeError(f"pruning must be a rtprune.PruneConfig, not {_typed(pruning)}")
    try:
        document = open_file(uri, known.password)
    except DocumentError as error:
        if error.reason != Reason.ENCRYPTED:
            raise
        raise DocumentError(error.reason, error.message, "give password=, or save it without one") from error
    asked = range(1, document.page_count + 1) if numbers is None else numbers
    check_pages(document, asked)

    from rtprune.engine import Engine
    from rtprune.models import load_model

    loaded = load_model(known.model) if model is None or isinstance(model, str) else model
    return read_pages_of(document, asked, Engine(loaded, known, pruning), known)


def open_file(uri: str, password: str | None = None) -> Document:
    """The document at ``uri``. Raises ``DocumentError`` that says what can be done, ``UsageError``, ``StoreError``."""
    if is_remote(uri):
        require_reachable(uri)
    try:
        return open_document(uri, read_object(uri), password)
    except DocumentError as error:
        if error.hint:
            raise
        raise DocumentError(error.reason, error.message, _HINTS.get(error.reason)) from error


def check_pages(document: Document, pages: Sequence[int]) -> None:
    """Raises ``UsageError`` where ``document`` lacks one of ``pages``."""
    for page in pages:
        if not 1 <= page <= document.page_count:
            has = f"pages 1 to {document.page_count}" if document.page_count > 1 else "page 1 only"
            raise UsageError(f"{document.uri} has no page {page}", f"it has {has}")


def read_pages_of(document: Document, pages: Sequence[int], engine: Engine, settings: RunSettings) -> list[PageResult]:
    """What ``engine`` reads on these pages of ``document``, in their order; each is rendered when it is its turn."""
    results: dict[int, PageResult] = {}
    render_ms: dict[int, float] = {}

    def rendered() -> Iterator[tuple[int, PageImage]]:
        images = render_pages(document, pages, dpi=settings.dpi, max_pixels=settings.max_pixels)
        for place, image in enumerate(images):
            if isinstance(image, PageFault):
                results[place] = PageResult(
                    "failed", reason=image.reason, message=image.message, timings=Timings(render_ms=image.render_ms)
                )
            else:
                render_ms[place] = image.render_ms
                yield place, image

    for place, result in engine.stream(rendered()):
        results[place] = replace(result, timings=replace(result.timings, render_ms=render_ms[place]))
    return [replace(results[place], page=page) for place, page in enumerate(pages)]


def picture_of(document: Document, page: int, settings: RunSettings) -> Image:
    """The page as it is read. Raises ``DocumentError`` where it cannot be rendered."""
    (image,) = render_pages(document, [page], dpi=settings.dpi, max_pixels=settings.max_pixels)
    if isinstance(image, PageFault):
        raise DocumentError(image.reason, image.message)
    return image.picture


def _uri(file: object) -> str:
    path = os.fspath(file) if isinstance(file, str | os.PathLike) else file
    if not isinstance(path, str):
        raise TypeError(f"file must be a path or an s3:// URI, as str or os.PathLike, not {_typed(file)}")
    if path.startswith("s3:/") and not is_remote(path):
        raise UsageError(f"{path} is no URI", "pathlib makes one slash of two: give s3:// URIs as str")
    return path


def _numbers(pages: object) -> Sequence[int] | None:
    """The pages asked for; ``None`` for all."""
    if pages is None:
        return None
    each = list(pages) if isinstance(pages, Iterable) and not isinstance(pages, str | bytes) else [pages]
    numbers = []
    for one in each:
        if isinstance(one, bool) or not isinstance(one, SupportsIndex):
            raise TypeError(f"pages must be page numbers, such as 3, [1, 3] or range(1, 4), not {_typed(one)}")
        numbers.append(index(one))
    return numbers


def _settings(given: dict[str, Any]) -> RunSettings:
    for name, value in given.items():
        if name not in PAGE_SETTINGS:
            raise TypeError(f"read() takes no argument {name!r}: there are {', '.join(PAGE_SETTINGS)}")
        if name == "prune" and isinstance(value, bool):  # which would count as 1 or 0
            raise TypeError(f"prune must be 'dynamic', 'off' or a share from 0 to 1, not {_typed(value)}")
    check_variables()
    try:
        return RunSettings(**given)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        fault = f"{name} cannot be {error.errors()[0]['input']!r}"
        meaning = RunSettings.model_fields[name].description
        if any(one["loc"][0] == name and one["type"].endswith("_type") for one in error.errors()):
            raise TypeError(f"{fault} ({meaning})") from error
        raise UsageError(fault if name in given else f"RTPRUNE_{name.upper()}: {fault}", meaning) from error


def _typed(value: object) -> str:
    return f"{value!r:.60}, of type {type(value).__name__}"
