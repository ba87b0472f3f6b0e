"""One OUTPUT: where everything in it lies, and the configuration it was made with.

::

    OUTPUT/pages/<2 hex>/<unit>.parquet          rows of a unit, one per page; <2 hex> begin the unit's id
    OUTPUT/pages/merged/<number>-<hash>.parquet  rows of many units, in place of their own files
    OUTPUT/documents/<number>.parquet            one row per object that plan <number> plans
    OUTPUT/runs/<run>.parquet                    one row per run
    OUTPUT/_rtprune/config.json                  what decides a row's content; one per OUTPUT
    OUTPUT/_rtprune/plans/<number>.parquet       append-only: which objects, cut into which units
    OUTPUT/_rtprune/compactions/<number>.json    append-only: the file that took the place of others

Control files lie apart because globs over a data folder (DuckDB, Polars) do not skip them there. ``merged`` comes after
all other folders: who lists the keys in their order while a compaction is at work then meets the new file after those
it replaces, and may see rows twice, but none too few.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rtprune.dataset.schema import SCHEMA_VERSION
from rtprune.errors import UsageError
from rtprune.store import create_if_absent, get, is_remote, join, open_filesystem, probe, require_reachable

#: Version of all that lies in an OUTPUT and where.
FORMAT = "1.0"

_RUN_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_UNIT_FILE = re.compile(r"pages/(?P<folder>[0-9a-f]{2})/(?P<unit>(?P=folder)[0-9a-f]{22})\.parquet")
_COMPACTED_FILE = re.compile(r"pages/merged/(?P<number>[0-9]{6})-(?P<hash>[0-9a-f]{16})\.parquet")


def new_run_id() -> str:
    """A fresh run id; later ones sort later."""
    return f"r{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def check_run_id(run_id: str) -> None:
    """Raises ``UsageError`` unless ``run_id`` is fit to name a file."""
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
            UsageError: OUTPUT cannot be written, holds other settings, was made by an earlier rtprune, or its store
                does not keep what a dataset rests on (``store.probe``).
            StoreError: no store answers.
        """
        uri = _absolute(uri)
        if is_remote(uri):
            require_reachable(uri)
        where = join(uri, "_rtprune", "config.json")
        wanted = _config_bytes(config)
        output = cls(uri, _settings(wanted, where))
        present = output._present_settings()
        probe(uri)  # before anything is written there, and after it is known whether it may be
        if present is None:
            create_if_absent(where, wanted)
            output._present_settings()  # of two that start at once, the first decides
        return output

    def _present_settings(self) -> Mapping[str, Any] | None:
        """The settings in OUTPUT, if there are any. Raises ``UsageError`` where they are not these."""
        where = join(self.uri, "_rtprune", "config.json")
        try:
            present = _settings(get(where), where)
        except FileNotFoundError:
            return None
        _check_same(self.uri, present, self.config)
        return present

    @classmethod
    def existing(cls, uri: str) -> Output:
        """OUTPUT for reading.

        Raises:
            UsageError: there is no dataset, or one made by an earlier rtprune.
            StoreError: no store answers.
        """
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
        """First 16 hexadecimal digits of the SHA-256 of the settings."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()[:16]

    def unit_uri(self, unit_id: str) -> str:
        """Where the rows of a unit lie from when they are committed until a compaction takes them in."""
        return join(self.uri, unit_file(unit_id))

    def plan_uri(self, number: int) -> str:
        """Where plan ``number`` (from 1) lies."""
        return join(self.uri, "_rtprune", "plans", f"{number:06d}.parquet")

    def documents_uri(self, number: int) -> str:
        """Where the ``documents`` rows of plan ``number`` lie."""
        return join(self.uri, "documents", f"{number:06d}.parquet")

    def compaction_uri(self, number: int) -> str:
        """Where the record of compaction ``number`` (from 1) lies."""
        return join(self.uri, "_rtprune", "compactions", f"{number:06d}.json")

    def run_uri(self, run_id: str) -> str:
        """Where the run's row lies. Raises ``UsageError`` when ``run_id`` is not fit to name a file."""
        check_run_id(run_id)
        return join(self.uri, "runs", f"{run_id}.parquet")


def unit_file(unit_id: str) -> str:
    """Path within OUTPUT of a unit's own file."""
    return f"pages/{unit_id[:2]}/{unit_id}.parquet"


def unit_of(file: str) -> str | None:
    """The unit whose own file a path within OUTPUT is; ``None`` for any other path."""
    match = _UNIT_FILE.fullmatch(file)
    return match["unit"] if match else None


def compacted_file(number: int, sha256: str) -> str:
    """Path within OUTPUT of the rows that compaction ``number`` gathers; ``sha256`` is that of the whole file."""
    return f"pages/merged/{number:06d}-{sha256[:16]}.parquet"


def compaction_of(file: str) -> int | None:
    """The number of the compaction that a path within OUTPUT was written for; ``None`` for any other path."""
    match = _COMPACTED_FILE.fullmatch(file)
    return int(match["number"]) if match else None


def _absolute(uri: str) -> str:
    return uri.rstrip("/") if is_remote(uri) else open_filesystem(uri)[1]


def _config_bytes(config: Mapping[str, Any]) -> bytes:
    content = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "settings": dict(config)}
    return (json.dumps(content, sort_keys=True, indent=2) + "\n").encode()


def _settings(data: bytes, where: str) -> dict[str, Any]:
    """The settings in a config.json of this format."""
    try:
        content = json.loads(data)
        version, settings = content["schema_version"], dict(content["settings"])
        written = content.get("format")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{where} cannot be read as a configuration", "name another OUTPUT") from error
    if written is None:
        raise UsageError(
            f"{where} was made by an earlier rtprune, whose format is no longer read",
            "name a new OUTPUT; the corpus is read into it anew",
        )
    if (written, version) != (FORMAT, SCHEMA_VERSION):
        raise UsageError(
            f"{where} is of format {written}, schema version {version}; "
            f"this rtprune writes format {FORMAT}, schema version {SCHEMA_VERSION}",
            "name another OUTPUT, or use the rtprune that made it",
        )
    return settings


def _check_same(uri: str, present: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differing = [
        f"{name} is {present.get(name)!r} there and {wanted.get(name)!r} here"
        for name in sorted(present.keys() | wanted.keys())
        if present.get(name) != wanted.get(name)
    ]
    if differing:
        raise UsageError(
            f"OUTPUT {uri} holds another configuration: {'; '.join(differing)}",
            "name another OUTPUT, or use the settings it was made with",
        )
