"""What is known of a family and of a checkpoint without loading a model; needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rtprune.errors import ModelError
from rtprune.models.checkpoint import Checkpoint
from rtprune.models.files import fingerprint, read_shapes

#: Name of the mode that cuts pages into tiles, of the models that have one.
TILED_MODE = "gundam"


@dataclass(frozen=True)
class Family:
    """What is known of a model family without opening a checkpoint.

    Attributes:
        title: what its makers call it.
        published: name of its published checkpoint.
        licence: licence of that checkpoint's weights.
        modes: names of its view sizes.
        default_mode: the published checkpoint's default among them.
        prompts: task -> the whole prompt, with ``<image>`` where the visual tokens stand; the first is the default.
        unused_tensors: names of tensors in the published file that no computation uses.
        end_marks: tokens that end an answer, in addition to those that the configuration names.
    """

    title: str
    published: str
    licence: str
    modes: tuple[str, ...]
    default_mode: str
    prompts: Mapping[str, str]
    unused_tensors: frozenset[str] = frozenset()
    end_marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model without loading its weights: how many ``parameters`` it has, and what the properties of
    the same names say in ``OcrModel``."""

    name: str
    revision: str
    parameters: int
    modes: tuple[str, ...]
    default_mode: str
    tasks: tuple[str, ...]
    default_task: str


def card_of(checkpoint: Checkpoint, family: Family) -> ModelCard:
    """What a checkpoint folder of ``family`` can be asked for. Raises `ModelError` where it is none."""
    trained_for = checkpoint.config.get("rtprune", {})
    if not isinstance(trained_for, Mapping):
        raise ModelError(f'{checkpoint.folder / "config.json"}: "rtprune" must be an object with modes and tasks')
    modes = _known(checkpoint, "modes", trained_for, family.modes)
    tasks = _known(checkpoint, "tasks", trained_for, tuple(family.prompts))
    shapes = read_shapes(checkpoint.folder)
    parameters = sum(math.prod(shape) for name, shape in shapes.items() if name not in family.unused_tensors)
    revision = fingerprint(checkpoint.folder)
    default = default_mode(family, modes)
    return ModelCard(checkpoint.name, revision, parameters, modes, default, tasks, tasks[0])


def default_mode(family: Family, modes: tuple[str, ...]) -> str:
    """The family's own where a checkpoint has it among its ``modes``, else its first."""
    return family.default_mode if family.default_mode in modes else modes[0]


def _known(
    checkpoint: Checkpoint, what: str, trained_for: Mapping[str, Any], known: tuple[str, ...]
) -> tuple[str, ...]:
    named = tuple(trained_for.get(what, known))
    if not named or not set(named) <= set(known):
        raise ModelError(
            f"{checkpoint.folder / 'config.json'} names {what} {list(named)}", f"there are: {', '.join(known)}"
        )
    return named
