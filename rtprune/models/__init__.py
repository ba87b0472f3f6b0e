"""OCR model families behind one small protocol: pictures to visual tokens, tokens to text, answers to regions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rtprune.errors import ModelError, PluginError, UsageError
from rtprune.models.card import Family, ModelCard, card_of
from rtprune.models.checkpoint import Checkpoint, resolve
from rtprune.models.protocol import (
    Answer,
    ModelFamily,
    OcrModel,
    Prompt,
    Region,
    Views,
    VisualPositions,
)
from rtprune.models.published import KNOWN
from rtprune.plugins import Registry

if TYPE_CHECKING:
    import torch

__all__ = [
    "FAMILIES",
    "Answer",
    "Checkpoint",
    "Family",
    "ModelCard",
    "ModelFamily",
    "OcrModel",
    "Prompt",
    "Region",
    "Views",
    "VisualPositions",
    "describe",
    "families",
    "known_families",
    "load_model",
    "register_model_family",
    "resolve",
]

logger = logging.getLogger(__name__)

_OWN: Mapping[str, ModelFamily | str] = {name: known.home for known in KNOWN for name in known.names}
_OWN_FAMILIES = {name: known.family for known in KNOWN for name in known.names}


def _fault(family: Any) -> str | None:
    """What keeps an object from being a `ModelFamily`."""
    if not isinstance(getattr(family, "family", None), Family):
        return f"its attribute family must be a rtprune.models.Family, got {getattr(family, 'family', None)!r}"
    missing = [name for name in ("describe", "load") if not callable(getattr(family, name, None))]
    missing += sorted(getattr(family, "__abstractmethods__", ()))
    return f"it does not define {', '.join(missing)}" if missing else None


#: What a checkpoint's config.json calls itself (``architectures``, else ``model_type``) -> the family that reads it.
FAMILIES: Registry[ModelFamily] = Registry("model family", "rtprune.models", _OWN, _fault)


def register_model_family(name: str, family: ModelFamily) -> None:
    """Let this process read the checkpoints whose config.json calls itself ``name``.

    Workers of a run are processes of their own: for runs, declare an entry point in the group ``rtprune.models``.

    Args:
        name: one of the file's ``architectures``, or its ``model_type``.

    Raises:
        PluginError: the name is taken, or the object is no model family.
    """
    FAMILIES.register(name, family)


def describe(name: str) -> ModelCard:
    """What a model can be asked for, without loading it; names as in ``load_model``.

    Raises:
        ModelError: there is no such model here.
    """
    checkpoint = resolve(name)
    known_as = _known_as(checkpoint)
    if known_as in _OWN_FAMILIES:
        return card_of(checkpoint, _OWN_FAMILIES[known_as])
    return FAMILIES[known_as].describe(checkpoint)


def load_model(name: str, *, device: str | None = None, dtype: torch.dtype | None = None) -> OcrModel:
    """Load a model by name: a published name, "mini", a local folder or an ``s3://`` prefix.

    Args:
        device: where it runs; a GPU if there is one when absent.
        dtype: what it computes in; bfloat16 on a GPU and float32 on a CPU when absent.

    Raises:
        ModelError: there is no such model here, or its files do not fit each other.
        PluginError: another package's family, to which the model belongs, cannot be used.
        UsageError: there is no such device here.
    """
    import torch

    checkpoint = resolve(name)
    family = FAMILIES[_known_as(checkpoint)]
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "torch finds no GPU that it can use", "install its CUDA build and a driver that fits, or hide the GPU"
        )
    return family.load(checkpoint, place, dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16))


def families() -> list[ModelFamily]:
    """Every model family that can be read: this package's own, then other packages'.

    Another package's family that cannot be used is left out with a warning.
    """
    return _usable(FAMILIES)


def known_families() -> list[Family]:
    """What is known of those families; this package's own are not imported for it."""
    others = _usable(name for name in FAMILIES if name not in _OWN)
    return [*(known.family for known in KNOWN), *(other.family for other in others)]


def _usable(names: Iterable[str]) -> list[ModelFamily]:
    found: list[ModelFamily] = []
    for name in names:
        try:
            family = FAMILIES[name]
        except PluginError as error:
            logger.warning("%s", error)
            continue
        if family not in found:
            found.append(family)
    return found


def _known_as(checkpoint: Checkpoint) -> str:
    """The first of a checkpoint's names by which a family is known."""
    names = [*(checkpoint.config.get("architectures") or []), checkpoint.config.get("model_type")]
    for name in names:
        if name in FAMILIES:
            return str(name)
    raise ModelError(
        f"{checkpoint.folder}: its config.json calls the model {' or '.join(map(repr, names))}",
        f"known here: {', '.join(sorted(FAMILIES))}; another package can add a family, see docs/adding-a-model.md",
    )
