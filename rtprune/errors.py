"""The package's exceptions, whose messages say what, where and what to do next; and every reason why a page fails."""

from __future__ import annotations

from enum import StrEnum

_DOCUMENTS, _PAGES = ("documents",), ("pages",)
_BOTH = _DOCUMENTS + _PAGES


class Reason(StrEnum):
    """Why a document, a page or a unit could not be read: the values of column ``reason``.

    Attributes:
        meaning: one sentence for readers of the dataset.
        tables: where rows have it: "documents" (the object could not be opened), "pages", or both.
        passing: whether trying the same again may succeed without anybody mending anything.
    """

    meaning: str
    tables: tuple[str, ...]
    passing: bool

    def __new__(cls, value: str, meaning: str = "", tables: tuple[str, ...] = (), passing: bool = False) -> Reason:
        """A member and what is known of it."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.tables = tables
        member.passing = passing
        return member

    # of objects and documents
    UNREACHABLE = "unreachable", "The store did not answer for this object, again and again.", _DOCUMENTS, True
    UNREADABLE = (
        "unreadable",
        "There is no such object, it is no regular file, or access to it is refused.",
        _BOTH,
        True,
    )
    CHANGED = "changed", "The object holds other bytes than when it was planned; the next run plans it anew.", _PAGES
    NOT_A_DOCUMENT = "not-a-document", "The bytes are neither a PDF nor a picture of a kind that is read.", _DOCUMENTS
    ENCRYPTED = "encrypted", "The document needs a password that was not given.", _DOCUMENTS
    NO_PAGES = "no-pages", "The document is a PDF without pages.", _DOCUMENTS
    DAMAGED = "damaged", "The document, or this page of it, is damaged beyond repair.", _BOTH
    # of pages on their way to pixels
    NO_SUCH_PAGE = "no-such-page", "The document has fewer pages than were asked for.", _PAGES
    TOO_LARGE = "too-large", "Decoding the page's picture would take more memory than is allowed.", _PAGES
    RENDERER_DIED = "renderer-died", "The process that rendered this page died again and again.", _PAGES
    TIMEOUT = "timeout", "Opening the document, rendering the page or reading the unit took too long.", _BOTH, True
    # of pages on their way through the model
    EMPTY_PICTURE = "empty-picture", "The picture has no pixels.", _PAGES
    TOO_THIN = "too-thin", "The picture is so long and thin that the model cannot be shown it.", _PAGES
    NO_VISUAL_TOKENS = "no-visual-tokens", "The picture gives no visual tokens: there is nothing to read.", _PAGES
    WORKER_DIED = "worker-died", "The process at work on this, and on nothing else, died again and again.", _BOTH, True
    UNEXPECTED = "unexpected", "An error was raised that no document should cause; the message names it.", _BOTH


class RTPruneError(Exception):
    """Root of every error this package raises on purpose.

    Args:
        message: what went wrong, and where.
        hint: what the reader can do about it, if anything is known to help.
    """

    #: Whether doing the same again may succeed.
    retryable = False
    #: What the command line ends with.
    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(RTPruneError):
    """The user asked for something that cannot be done."""

    exit_code = 2


class ModelError(UsageError):
    """A model cannot be had or loaded: unknown name, missing files, tensors lacking or of the wrong shape."""


class PluginError(UsageError):
    """What another package adds cannot be used: it cannot be imported, is of the wrong shape, or its name is taken."""


class StoreError(RTPruneError):
    """The object store did not answer as it should; trying again may help."""

    retryable = True


class DocumentError(RTPruneError):
    """One document (or one page of it) cannot be read; everything else goes on.

    Args:
        reason: stored in column ``reason`` of the dataset.
    """

    def __init__(self, reason: Reason, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.reason = reason

    def __reduce__(self) -> tuple[type[DocumentError], tuple[Reason, str, str | None]]:
        return type(self), (self.reason, self.message, self.hint)


def unexpected(error: BaseException) -> str:
    """What to record of an error that no document should cause: its class and its message."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
