"""Whether a place keeps what a dataset rests on: tried before anything is written there."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress

from rtprune.errors import RTPruneError, UsageError
from rtprune.store import local
from rtprune.store.errors import Refusal, refusal_in
from rtprune.store.filesystem import is_remote, join, open_filesystem
from rtprune.store.listing import find
from rtprune.store.objects import create_if_absent, delete, get_with_version, replace_if_unchanged

FIRST, SECOND = b"first", b"second"
NO_OBJECT_HAS_IT = '"00000000000000000000000000000000"'
OTHER_STORE = "use a store with conditional writes: AWS S3, Ceph, MinIO and Cloudflare R2 have them"


def probe(uri: str) -> None:
    """Create, create again, read, replace, list and delete a throw-away object below ``uri``/_rtprune/.

    Nothing is left there, as far as the store lets it be deleted.

    Raises:
        UsageError: an operation is refused, or a condition is ignored; the message names which, and what to do.
        StoreError: the store failed; trying again may help.
    """
    base = join(uri, "_rtprune", f"probe-{uuid.uuid4().hex}")
    if not is_remote(uri):
        _probe_folder(uri, open_filesystem(base)[1])
        return
    try:
        _probe_store(uri, join(base, "object"))
    except (RTPruneError, FileNotFoundError) as error:
        raise _explained(uri, error) from error
    finally:
        _clean(base)


def _probe_store(uri: str, key: str) -> None:
    created = create_if_absent(key, FIRST)
    if create_if_absent(key, SECOND):
        raise _overwrites(uri)
    data, version = get_with_version(key)
    if data != FIRST or not version:
        how = "at once" if created else "unless another writes there"
        raise UsageError(f"the store of {uri} does not give back {how} what was written", OTHER_STORE)
    if replace_if_unchanged(key, SECOND, NO_OBJECT_HAS_IT) or not replace_if_unchanged(key, SECOND, version):
        raise UsageError(f"the store of {uri} ignores the condition If-Match of PutObject", OTHER_STORE)
    if find(key.rpartition("/")[0]) != [key]:
        raise UsageError(f"the store of {uri} does not list at once what was written", OTHER_STORE)
    delete(key)


def _overwrites(uri: str) -> UsageError:
    if _is_versioned(uri):
        return UsageError(
            f"the store of {uri} overwrites objects that exist when asked not to (If-None-Match): its bucket is"
            " versioned, and this store ignores the condition on versioned buckets, as Ceph 16 does",
            "use a bucket without versioning",
        )
    return UsageError(
        f"the store of {uri} overwrites objects that exist when asked not to (If-None-Match)", OTHER_STORE
    )


def _is_versioned(uri: str) -> bool:
    filesystem, path = open_filesystem(uri)
    try:
        answer = filesystem.call_s3("get_bucket_versioning", Bucket=filesystem.split_path(path)[0])
    except Exception:  # may be refused, and only words depend on it
        return False
    return answer.get("Status") in ("Enabled", "Suspended")


def _explained(uri: str, error: Exception) -> Exception:
    """``error`` as the user of ``uri`` understands it."""
    if isinstance(error, FileNotFoundError):
        return UsageError(f"cannot write OUTPUT {uri}: no such bucket", "create the bucket first")
    refusal = refusal_in(error)
    if refusal is None:
        return error
    if refusal.status == 501 or refusal.code == "NotImplemented":
        return UsageError(
            f"cannot write OUTPUT {uri}: this store has no conditional writes"
            f" ({refusal.operation} was answered {refusal.code})",
            OTHER_STORE,
        )
    return _refused(uri, refusal) if isinstance(error, UsageError) else error


def _refused(uri: str, refusal: Refusal) -> UsageError:
    left = "; the object that was tried, below _rtprune/, is left there" if refusal.permission == "DeleteObject" else ""
    return UsageError(
        f"cannot write OUTPUT {uri}: {refusal.operation} was refused ({refusal.code}){left}",
        f"check the AWS credentials, that they allow s3:{refusal.permission} there, and this machine's clock; needed"
        " are s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket",
    )


def _clean(base: str) -> None:
    """Delete what is left below ``base``, also the versions that a versioned bucket keeps."""
    filesystem, path = open_filesystem(base)
    bucket, key, _ = filesystem.split_path(path)
    with suppress(Exception):  # may be refused, and why has been said
        filesystem.call_s3("delete_object", Bucket=bucket, Key=f"{key}/object")
    with suppress(Exception):
        kept = filesystem.call_s3("list_object_versions", Bucket=bucket, Prefix=f"{key}/")
        for each in kept.get("Versions", []) + kept.get("DeleteMarkers", []):
            filesystem.call_s3("delete_object", Bucket=bucket, Key=each["Key"], VersionId=each["VersionId"])


def _probe_folder(uri: str, folder: str) -> None:
    made = []
    above = folder
    while not os.path.lexists(above):
        made.append(above)
        above = os.path.dirname(above)
    try:
        _try_folder(uri, folder)
    except BaseException:
        for each in made:
            with suppress(OSError):  # another run may use it by now
                os.rmdir(each)
        raise


def _try_folder(uri: str, folder: str) -> None:
    first, second = os.path.join(folder, "first"), os.path.join(folder, "second")
    needed = "a folder that can be written to"
    try:
        os.makedirs(folder)
        local.write(first, FIRST)
        needed = "hard links, to create a file only if there is none"
        os.link(first, second)
        with suppress(FileExistsError):
            os.link(first, second)
            raise UsageError(f"cannot write OUTPUT {uri}: it overwrites files that exist when asked not to")
        needed = "locks (flock), to replace a file"
        with local.locked(first):
            pass
    except OSError as error:
        raise UsageError(
            f"cannot write OUTPUT {uri}: {error.strerror or error}", f"name a folder with what is needed: {needed}"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
