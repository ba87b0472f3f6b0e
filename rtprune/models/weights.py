"""Safetensors files of a checkpoint folder: what they hold, whether it fits, and which bytes they are."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rtprune.errors import ModelError

_WHOLE = 64 * 2**20
_SAMPLES = 64
_SAMPLE_BYTES = 64 * 2**10


def weight_files(folder: Path) -> list[Path]:
    """The folder's ``*.safetensors`` files, sorted. Raises `ModelError` where there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no *.safetensors file", "a checkpoint needs its weights beside config.json")
    return files


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors, read from the files' headers alone."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        with _opened(file) as tensors:
            shapes.update({name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()})  # noqa: SIM118
    return shapes


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Name -> tensor, on the CPU in the files' own types; the files are mapped, not copied, where that is possible."""
    found: dict[str, Tensor] = {}
    for file in weight_files(folder):
        with _opened(file) as tensors:
            found.update({name: tensors.get_tensor(name) for name in tensors.keys()})  # noqa: SIM118
    return found


def save_tensors(tensors: Mapping[str, Tensor], file: Path, dtype: torch.dtype) -> None:
    """Write tensors as ``dtype``, sorted by name, so that equal tensors give equal bytes."""
    packed = {name: tensors[name].detach().to("cpu", dtype).contiguous().clone() for name in sorted(tensors)}
    save_file(packed, file, metadata={"format": "pt"})
    file.chmod(0o644)  # the library lets only the owner read it


def require_fit(
    folder: Path,
    found: Mapping[str, tuple[int, ...]],
    needed: Mapping[str, tuple[int, ...]],
    unused: Collection[str] = (),
) -> None:
    """Raise `ModelError` unless ``found`` has exactly the ``needed`` names and shapes; ``unused`` ones may be there."""
    missing = sorted(needed.keys() - found.keys())
    unexpected = sorted(found.keys() - needed.keys() - set(unused))
    mismatched = [
        f"{name} {list(found[name])} instead of {list(needed[name])}"
        for name in sorted(needed.keys() & found.keys())
        if tuple(found[name]) != tuple(needed[name])
    ]
    faults = [
        f"{len(names)} {fault}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for fault, names in (
            ("tensors missing", missing),
            ("tensors unexpected", unexpected),
            ("tensors of another shape", mismatched),
        )
        if names
    ]
    if faults:
        raise ModelError(
            f"the weights in {folder} do not fit its config.json: {'; '.join(faults)}",
            "fetch the checkpoint again, or check that config.json belongs to it",
        )


def fingerprint(folder: Path) -> str:
    """First 16 hexadecimal digits of a SHA-256 over configuration, tokenizer and weights.

    Files above 64 MiB are sampled (their size, header and 64 evenly spread parts), so that gigabytes of weights
    cost milliseconds: it tells checkpoints apart, it does not prove them whole. Raises `ModelError` if one
    is missing.
    """
    digest = hashlib.sha256()
    for file in [folder / "config.json", folder / "tokenizer.json", *weight_files(folder)]:
        if not file.is_file():
            raise ModelError(f"{folder} holds no {file.name}", "a checkpoint needs it beside its weights")
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as stream:
            if size <= _WHOLE:
                digest.update(stream.read())
                continue
            header = int.from_bytes(stream.read(8), "little")
            digest.update(stream.read(min(header, _WHOLE)))
            for sample in range(_SAMPLES):
                stream.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file whose faults name it."""
    try:
        with safe_open(file, framework="pt", device="cpu") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is not a readable safetensors file: {error}", "fetch the checkpoint again") from error
