"""The package's exceptions: one small family whose messages say what, where and what to do next."""

from __future__ import annotations


class RTPruneError(Exception):
    """Root of every error this package raises on purpose.

    Args:
        message: what went wrong, and where.
        hint: what the reader can do about it, if anything is known to help.
    """

    #: Whether doing the same again may succeed.
    retryable = False

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(RTPruneError):
    """The user asked for something that cannot be done: the command line ends with exit code 2."""


class ModelError(UsageError):
    """A model cannot be had or loaded: unknown name, missing files, tensors lacking or of the wrong shape."""


class StoreError(RTPruneError):
    """The object store did not answer as it should; trying again may help."""

    retryable = True


class DocumentError(RTPruneError):
    """One document (or one page of it) cannot be read; everything else goes on.

    Args:
        kind: short stable name of the reason, stored as ``error_type`` in the dataset.
    """

    def __init__(self, kind: str, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.kind = kind

    def __reduce__(self) -> tuple[type[DocumentError], tuple[str, str, str | None]]:
        return type(self), (self.kind, self.message, self.hint)
