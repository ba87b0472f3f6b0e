"""Files of a checkpoint folder, looked at without torch: which tensors they hold, and which bytes they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

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
        with opened(file, "numpy") as tensors:
            shapes.update({name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()})  # noqa: SIM118
    return shapes


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
def opened(file: Path, framework: Literal["pt", "numpy"] = "pt") -> Iterator[Any]:
    """A safetensors file whose faults name it; its header can be read without torch as "numpy"."""
    try:
        with safe_open(file, framework=framework, device="cpu") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is not a readable safetensors file: {error}", "fetch the checkpoint again") from error
