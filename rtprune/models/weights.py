"""Tensors of a checkpoint folder: read, written, and held against what a model needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rtprune.errors import ModelError
from rtprune.models.files import opened, weight_files


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Name -> tensor, on the CPU in the files' own types; the files are mapped, not copied, where that is possible."""
    found: dict[str, Tensor] = {}
    for file in weight_files(folder):
        with opened(file) as tensors:
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
