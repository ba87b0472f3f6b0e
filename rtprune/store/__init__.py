"""Local folders and S3-compatible object stores behind one door: nobody else builds a filesystem.

Endpoint and credentials come from the standard AWS variables and profiles (``AWS_ENDPOINT_URL``, ``AWS_PROFILE``,
``AWS_ACCESS_KEY_ID``, ...), so MinIO, Ceph and other compatible stores work without further settings.
"""

from rtprune.store.errors import store_errors
from rtprune.store.filesystem import is_remote, join, open_filesystem, require_reachable
from rtprune.store.listing import find, find_sizes, scan
from rtprune.store.objects import (
    create_if_absent,
    delete,
    delete_many,
    exists,
    get,
    get_many,
    get_with_version,
    put,
    replace_if_unchanged,
)
from rtprune.store.probe import probe

__all__ = [
    "create_if_absent",
    "delete",
    "delete_many",
    "exists",
    "find",
    "find_sizes",
    "get",
    "get_many",
    "get_with_version",
    "is_remote",
    "join",
    "open_filesystem",
    "probe",
    "put",
    "replace_if_unchanged",
    "require_reachable",
    "scan",
    "store_errors",
]
