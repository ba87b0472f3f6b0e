"""Bytes of an object made into a ``Document``: which kind it is, its fingerprint, how many pages it has."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from typing import Literal

from rtprune.errors import DocumentError, Reason, StoreError, UsageError
from rtprune.store import get, is_remote, open_filesystem

#: What the object store answers when the credentials as a whole are wrong, rather than one object being out of reach.
CREDENTIAL_CODES = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
)


@dataclass(frozen=True)
class Document:
    """One object that can be read page by page. Made by ``open_document``.

    Attributes:
        uri: where the object lies.
        doc_id: SHA-256 of its bytes, hexadecimal: the document's identity wherever it lies.
        kind: a PDF file, or a picture (a multi-page TIFF is a picture of several pages).
        page_count: at least 1; pages that the document claims but lacks are counted, and fail when rendered.
        data: the object's bytes.
        password: what opens ``data``, if it was needed.
    """

    uri: str
    doc_id: str
    kind: Literal["pdf", "image"]
    page_count: int
    data: bytes | memoryview = field(repr=False)
    password: str | None = field(default=None, repr=False)


def read_object(uri: str) -> bytes:
    """All bytes of the object at ``uri``, a local path or ``s3://`` URI.

    Raises:
        DocumentError: "unreadable": there is no such object, it is no regular file, or access to it is refused.
        StoreError: the store cannot be reached or rejects the credentials altogether; trying again may help.
    """
    try:
        _, path = open_filesystem(uri)
        if is_remote(uri) and "/" not in path:
            raise DocumentError(Reason.UNREADABLE, f"{uri} names a bucket, not an object in it")
        if is_remote(uri) and (uri.endswith("/") or "?versionId=" in uri):
            # s3fs would fetch what lies at the key without these
            raise DocumentError(Reason.UNREADABLE, f"{uri} cannot be asked for by its key", "copy it to another key")
        if not is_remote(uri) and not stat.S_ISREG(os.stat(path).st_mode):
            # Reading a pipe or a device might never end.
            raise DocumentError(Reason.UNREADABLE, f"{uri} is not a regular file")
        return get(uri)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DocumentError(Reason.UNREADABLE, f"{uri} does not exist") from error
    except UsageError as error:
        if is_remote(uri) and _credentials_rejected(uri):
            raise StoreError(error.message, error.hint) from error
        raise DocumentError(Reason.UNREADABLE, error.message, error.hint) from error
    except (OSError, ValueError) as error:  # names no file system can hold: too long, a NUL in it, circular links
        raise DocumentError(Reason.UNREADABLE, f"{uri} cannot be opened: {error}") from error


def open_document(
    uri: str, data: bytes | memoryview, password: str | None = None, doc_id: str | None = None
) -> Document:
    """The document in ``data``. Its kind is decided by content; the name counts for a PDF without a header only.

    Only headers and the page tree are looked at, no page is decoded. PyMuPDF is not thread safe: call this from one
    thread of a process at a time, as ``render_pages``.

    Args:
        uri: where ``data`` came from, for messages.
        data: the whole object.
        password: tried if the document is encrypted.
        doc_id: SHA-256 of ``data`` if it is known already.

    Raises:
        DocumentError: for one of the reasons "not-a-document", "encrypted", "no-pages" or "damaged".
    """
    from rtprune.documents.pdf import open_pdf  # here, because readers of bytes and workers open no document
    from rtprune.documents.picture import count_frames, picture_format

    doc_id = doc_id or hashlib.sha256(data).hexdigest()
    if picture_format(data):
        return Document(uri, doc_id, "image", count_frames(data, uri), data)
    with open_pdf(data, password, uri) as pdf:
        return Document(uri, doc_id, "pdf", pdf.page_count, data, password)


def _credentials_rejected(uri: str) -> bool:
    """Whether the store refuses us rather than this object. Asks again: the reply to a size query gives no reason."""
    from botocore.exceptions import ClientError, NoCredentialsError

    filesystem, path = open_filesystem(uri)
    bucket, key = path.split("/", 1)
    try:
        filesystem.call_s3("get_object", Bucket=bucket, Key=key, Range="bytes=0-0")
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, NoCredentialsError):
                return True
            if isinstance(cause, ClientError) and cause.response.get("Error", {}).get("Code") in CREDENTIAL_CODES:
                return True
            cause = cause.__cause__
    return False
