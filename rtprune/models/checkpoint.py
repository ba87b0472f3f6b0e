"""Name of a model -> local folder with config.json, tokenizer.json and *.safetensors."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtprune.errors import ModelError, StoreError
from rtprune.store import is_remote, open_filesystem, store_errors

logger = logging.getLogger(__name__)

BUILT_IN = "mini"
_BUILT_IN_FOLDER = Path(__file__).resolve().parents[1] / "mini" / "weights"
_PATTERNS = ("*.json", "*.safetensors")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WAYS_ON = "use --model mini (built in, for trying things out), or --model with a local folder or s3:// prefix of it"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine's disk.

    Attributes:
        name: the name it was resolved from.
        folder: where its files lie.
        config: contents of its config.json.
        commit: the hub's commit it was fetched at; ``None`` for a folder or an object store.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    commit: str | None = None


def resolve(name: str) -> Checkpoint:
    """Find or fetch the checkpoint called ``name``: "mini", a local folder, an s3:// prefix or a published name.

    Raises:
        ModelError: there is none, or it cannot be fetched.
        StoreError: the object store does not answer.
    """
    commit = None
    if name == BUILT_IN:
        folder = _built_in()
    elif is_remote(name):
        folder = _from_store(name)
    elif Path(name).expanduser().is_dir():
        folder = Path(name).expanduser().resolve()
    elif _HUB_NAME.fullmatch(name):
        folder, commit = _from_hub(name)
    else:
        raise _missing(name)
    return Checkpoint(name, folder, _read_config(folder), commit)


def at_hand(name: str) -> str | None:
    """The name or folder by which `resolve` finds a checkpoint without asking anybody; ``None`` where it has to.

    Raises:
        ModelError: there is no such checkpoint.
    """
    if name == BUILT_IN or Path(name).expanduser().is_dir():
        return name
    if is_remote(name):
        return None
    if not _HUB_NAME.fullmatch(name):
        raise _missing(name)
    import huggingface_hub

    config = huggingface_hub.try_to_load_from_cache(name, "config.json")
    return str(Path(config).parent) if isinstance(config, str) else None


def cache_folder() -> Path:
    """Where fetched checkpoints are kept: ``rtprune`` under ``XDG_CACHE_HOME``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rtprune"


def _missing(name: str) -> ModelError:
    return ModelError(f"no model {name!r}: there is no such folder", _WAYS_ON)


def _built_in() -> Path:
    if not (_BUILT_IN_FOLDER / "config.json").is_file():
        raise ModelError(
            f"the built-in model is not in {_BUILT_IN_FOLDER}",
            "install the package with its data files, or train it: python -m rtprune.mini.train",
        )
    return _BUILT_IN_FOLDER


def _from_hub(name: str) -> tuple[Path, str]:
    import httpx
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_PATTERNS)))
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise ModelError(
            f"the published weights {name!r} cannot be had here ({type(error).__name__}: {_first_line(error)})",
            _WAYS_ON,
        ) from error
    logger.info("%s at commit %s", name, folder.name)
    return folder, folder.name  # the hub's cache names a snapshot's folder after its commit


def _from_store(uri: str) -> Path:
    """Fetch the checkpoint files directly under ``uri``, once for each state they are in there."""
    filesystem, prefix = open_filesystem(uri)
    with store_errors(uri):
        try:
            found = filesystem.ls(prefix, detail=True)
        except FileNotFoundError:
            found = []
    objects = sorted(
        (entry["name"], int(entry["size"]), str(entry.get("ETag", "")))
        for entry in found
        if entry["type"] == "file" and any(Path(entry["name"]).match(pattern) for pattern in _PATTERNS)
    )
    if not objects:
        raise ModelError(f"{uri} holds no checkpoint: no *.json or *.safetensors directly under it", _WAYS_ON)
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    key = hashlib.sha256(json.dumps([endpoint, objects]).encode()).hexdigest()[:32]
    folder = cache_folder() / "checkpoints" / key
    if folder.is_dir():
        return folder
    with store_errors(str(folder)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{key}."))
    try:
        for path, size, _ in objects:
            local = aside / Path(path).name
            with store_errors(f"s3://{path}"), _room_at(folder):
                filesystem.get_file(path, str(local))
            if local.stat().st_size != size:
                raise StoreError(f"s3://{path} changed while it was fetched", "try again")
        try:
            aside.rename(folder)  # one rename, so that nobody sees half a checkpoint
        except OSError:
            if not folder.is_dir():  # otherwise another process was first with the same files
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


@contextmanager
def _room_at(folder: Path) -> Iterator[None]:
    """A full disk is not the store's fault."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"{folder}: {error.strerror}", "check the disk it lies on") from error
        raise


def _read_config(folder: Path) -> Mapping[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is no checkpoint: it has no config.json", _WAYS_ON) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {_first_line(error)}", "fetch the checkpoint again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{file} is not a JSON object", "fetch the checkpoint again")
    return config


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
