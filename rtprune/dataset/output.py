"""One OUTPUT: where everything in it lies, and the configuration it was made with.

::

    OUTPUT/pages/run=<run>/u-<unit>-<hash>.parquet   one row per page
    OUTPUT/pages/run=<id>/c-<number>-<hash>.parquet  rows of many units, in place of their own files
    OUTPUT/documents/run=<run>/d-<plan>.parquet      one row per object
    OUTPUT/runs/run=<run>/run.parquet                one row per run
    OUTPUT/_rtprune/config.json                      what decides a row's content; one per OUTPUT
    OUTPUT/_rtprune/plans/<number>.parquet           append-only: which objects, cut into which units
    OUTPUT/_rtprune/markers/<unit>.json              first come, first served: the file that holds the unit
    OUTPUT/_rtprune/manifests/<run>.json             the files that became visible with a run
    OUTPUT/_rtprune/compactions/<number>.json        append-only: the file that took the place of others

Control files lie apart because globs over a data folder (DuckDB, Polars) do not skip them there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rtprune.dataset.schema import SCHEMA_VERSION
from rtprune.errors import UsageError
from rtprune.store import create_if_absent, get, is_remote, join, open_filesystem, require_reachable

#: Starts with a letter: readers would take a partition value that looks like a number or a date for one.
_RUN_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_DATA_FILE = re.compile(r"pages/run=[A-Za-z0-9_-]+/u-(?P<unit>[0-9a-f]{24})-[0-9a-f]{16}\.parquet")
_COMPACTED_FILE = re.compile(r"pages/run=[A-Za-z0-9_-]+/c-(?P<number>[0-9]{6})-[0-9a-f]{16}\.parquet")


def new_run_id() -> str:
    """A fresh run id; later ones sort later."""
    return _new_id("r")


def new_compaction_id() -> str:
    """A fresh id for a compaction; later ones sort later, all of them after those of runs.

    Whoever lists the pages in the order of their keys while a compaction is at work then meets the new file after
    those it replaces, and so may see rows twice, but none too few.
    """
    return _new_id("z")


def _new_id(letter: str) -> str:
    return f"{letter}{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def check_run_id(run_id: str) -> None:
    """Raises ``UsageError`` unless ``run_id`` is fit to name a folder."""
    if not _RUN_ID.fullmatch(run_id):
        raise UsageError(
            f"{run_id!r} cannot be a run id", "use a letter and then letters, digits, '-' or '_', 63 at most"
        )


@dataclass(frozen=True)
class Output:
    """A dataset under one URI. Holds no connection, so it can be sent to other processes."""

    uri: str
    config: Mapping[str, Any]

    @classmethod
    def open(cls, uri: str, config: Mapping[str, Any]) -> Output:
        """OUTPUT for writing: made if there is none yet, refused if it holds another configuration.

        Args:
            uri: local folder or ``s3://bucket/prefix``.
            config: everything that decides what rows a page gives; plain JSON values. Never secrets.

        Raises:
            UsageError: OUTPUT cannot be written, holds other settings, or its store cannot create-if-absent.
            StoreError: no store answers.
        """
        uri = _absolute(uri)
        if is_remote(uri):
            require_reachable(uri)
        else:
            _check_folder(uri)
        wanted = _config_bytes(config)
        where = join(uri, "_rtprune", "config.json")
        try:
            found = _read_or_create(where, wanted)
        except FileNotFoundError as error:
            raise UsageError(f"cannot write OUTPUT {uri}: no such bucket", "create the bucket first") from error
        _check_same(uri, _settings(found, where), _settings(wanted, where))
        # Everything here rests on the first writer of a name winning. Asked with the same bytes, so nothing can change.
        if create_if_absent(where, found):
            raise UsageError(
                f"the store of {uri} overwrites objects that exist when asked not to (If-None-Match)",
                "use a store with conditional writes: AWS S3, MinIO, Ceph and Cloudflare R2 have them",
            )
        return cls(uri, _settings(found, where))

    @classmethod
    def existing(cls, uri: str) -> Output:
        """OUTPUT for reading. Raises ``UsageError`` when there is no dataset, ``StoreError`` when nothing answers."""
        uri = _absolute(uri)
        if is_remote(uri):
            require_reachable(uri)
        where = join(uri, "_rtprune", "config.json")
        try:
            return cls(uri, _settings(get(where), where))
        except FileNotFoundError as error:
            raise UsageError(f"there is no dataset at {uri}", "name the OUTPUT of an `rtprune run`") from error

    @property
    def config_hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 over the configuration."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()[:16]

    def plan_uri(self, number: int) -> str:
        """Where plan ``number`` (from 1) lies."""
        return join(self.uri, "_rtprune", "plans", f"{number:06d}.parquet")

    def marker_uri(self, unit_id: str) -> str:
        """Where the unit's marker lies."""
        return join(self.uri, "_rtprune", "markers", f"{unit_id}.json")

    def manifest_uri(self, run_id: str) -> str:
        """Where the run's manifest lies."""
        return join(self.uri, "_rtprune", "manifests", f"{run_id}.json")

    def compaction_uri(self, number: int) -> str:
        """Where the record of compaction ``number`` (from 1) lies."""
        return join(self.uri, "_rtprune", "compactions", f"{number:06d}.json")

    def documents_uri(self, run_id: str, plan: int) -> str:
        """Where the ``documents`` rows of a plan lie."""
        return join(self.uri, "documents", f"run={run_id}", f"d-{plan:06d}.parquet")

    def run_uri(self, run_id: str) -> str:
        """Where the run's row lies."""
        return join(self.uri, "runs", f"run={run_id}", "run.parquet")


def data_file(run_id: str, unit_id: str, sha256: str) -> str:
    """Path within OUTPUT of a unit's rows as written by one run."""
    check_run_id(run_id)
    return f"pages/run={run_id}/u-{unit_id}-{sha256[:16]}.parquet"


def unit_of(file: str) -> str | None:
    """The unit whose rows a path within OUTPUT holds; ``None`` for a path that is not a unit's data file."""
    match = _DATA_FILE.fullmatch(file)
    return match["unit"] if match else None


def compacted_file(compaction_id: str, number: int, sha256: str) -> str:
    """Path within OUTPUT of the rows that compaction ``number`` gathers."""
    check_run_id(compaction_id)
    return f"pages/run={compaction_id}/c-{number:06d}-{sha256[:16]}.parquet"


def compaction_of(file: str) -> int | None:
    """The number of the compaction that a path within OUTPUT was written for; ``None`` for any other path."""
    match = _COMPACTED_FILE.fullmatch(file)
    return int(match["number"]) if match else None


def _absolute(uri: str) -> str:
    return uri.rstrip("/") if is_remote(uri) else open_filesystem(uri)[1]


def _check_folder(path: str) -> None:
    control = os.path.join(path, "_rtprune")
    try:
        os.makedirs(control, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write OUTPUT {path}: {error.strerror}", "name a folder you may write to") from error
    if not os.access(control, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write OUTPUT {path}: permission denied", "name a folder you may write to")


def _read_or_create(where: str, data: bytes) -> bytes:
    try:
        return get(where)
    except FileNotFoundError:
        create_if_absent(where, data)
        return get(where)  # of two that start at once, the first decides


def _config_bytes(config: Mapping[str, Any]) -> bytes:
    content = {"schema_version": SCHEMA_VERSION, "settings": dict(config)}
    return (json.dumps(content, sort_keys=True, indent=2) + "\n").encode()


def _settings(data: bytes, where: str) -> dict[str, Any]:
    """The configuration in a config.json; its schema version counts as one more setting that must agree."""
    try:
        content = json.loads(data)
        version, settings = content["schema_version"], dict(content["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{where} cannot be read as a configuration", "choose another OUTPUT") from error
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{where} is of schema version {version}, this rtprune writes {SCHEMA_VERSION}",
            "choose another OUTPUT, or the rtprune that made it",
        )
    return settings


def _check_same(uri: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differing = [
        f"{name} is {found.get(name)!r} there and {wanted.get(name)!r} here"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if differing:
        raise UsageError(
            f"OUTPUT {uri} holds another configuration: {'; '.join(differing)}",
            "choose another OUTPUT, or the settings it was made with",
        )
