"""What boto, s3fs and the operating system raise, turned into this package's errors.

Boto is imported once something is raised: processes that meet no object store do without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rtprune.errors import StoreError, UsageError

_HINTS = {
    "SlowDown": "the store asks for fewer requests: try again later, or with fewer workers",
    "ServiceUnavailable": "try again later",
    "InternalError": "try again later",
    "NotImplemented": "this store lacks the operation, or a header it was sent with",
    "PermanentRedirect": "set AWS_DEFAULT_REGION to the bucket's region",
    "AuthorizationHeaderMalformed": "set AWS_DEFAULT_REGION to the bucket's region",
}
_PERMISSIONS = {
    "HeadObject": "GetObject",
    "HeadBucket": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "DeleteObjects": "DeleteObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
}


@dataclass(frozen=True)
class Refusal:
    """A store's answer that is an error.

    Attributes:
        operation: as S3 names it: "PutObject".
        code: as the store names it: "AccessDenied"; the HTTP status where it gives no name, as for HEAD requests.
        status: the HTTP status; 0 where it is not known.
    """

    operation: str
    code: str
    status: int

    @property
    def permission(self) -> str:
        """What a policy must allow for the operation, without "s3:"."""
        return _PERMISSIONS.get(self.operation, self.operation)


def refusal_in(error: BaseException | None) -> Refusal | None:
    """The store's answer that led to ``error``; ``None`` where it gave none.

    s3fs raises bare ``OSError`` for most codes and keeps the answer as their cause.
    """
    from botocore.exceptions import ClientError

    while error is not None:
        if isinstance(error, ClientError):
            answer = error.response
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0
            code = str(answer.get("Error", {}).get("Code") or status)
            # a code is one word; anything else is not repeated, it may hold what must not be shown
            code = code if re.fullmatch(r"[\w.-]{1,64}", code) else "an unknown error"
            return Refusal(str(error.operation_name), code, int(code) if code.isdecimal() and not status else status)
        error = error.__cause__
    return None


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn what boto, s3fs and the operating system raise into this package's errors; secrets never in a message.

    Raises:
        FileNotFoundError: there is no such object, folder or bucket.
        UsageError: access was refused, or there are no credentials.
        StoreError: anything else; the message names the operation and the store's code where it gave one.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(f"no object {uri}") from error
    except Exception as error:
        ours = _translated(uri, error)
        if ours is None:
            raise
        raise ours from error


def _translated(uri: str, error: Exception) -> StoreError | UsageError | None:
    """``error`` in this package's words; ``None`` where it is not about the store."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    if isinstance(error, NoCredentialsError):
        return UsageError(f"no credentials for {uri}", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile")
    if not isinstance(error, OSError | BotoCoreError | ClientError):
        return None
    refusal = refusal_in(error)
    if isinstance(error, PermissionError):
        return _no_access(uri, refusal, error)
    if refusal:
        return StoreError(f"the store refused {refusal.operation} for {uri}: {refusal.code}", _HINTS.get(refusal.code))
    if isinstance(error, OSError) and not uri.startswith("s3://"):
        return StoreError(f"{uri}: {error.strerror or error}", "check the disk it lies on")
    return StoreError(
        f"the store did not answer for {uri}: {type(error).__name__}", "check AWS_ENDPOINT_URL and the network"
    )


def _no_access(uri: str, refusal: Refusal | None, error: PermissionError) -> UsageError:
    if refusal is None:
        return UsageError(f"access to {uri} was refused: {error.strerror or 'not permitted'}", "check its permissions")
    return UsageError(
        f"access to {uri} was refused: {refusal.operation} was answered {refusal.code}",
        f"check the AWS credentials, that they allow s3:{refusal.permission}, and this machine's clock",
    )
