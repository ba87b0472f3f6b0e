"""The values that pass between the steps of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from rtprune.corpus.assignment import Tally
from rtprune.dataset import Output, Pending
from rtprune.documents import ObjectList
from rtprune.settings import RunSettings


@dataclass(frozen=True)
class Progress:
    """How far a run is. ``done`` and ``total`` count objects while inspecting, pages while reading."""

    stage: Literal["inspect", "read"]
    done: int
    total: int
    failed: int = 0
    tokens_before: int = 0
    tokens_after: int = 0


OnProgress = Callable[[Progress], None]
ShouldStop = Callable[[], bool]


def never() -> bool:
    """Nobody stops the run."""
    return False


def nobody(progress: Progress) -> None:
    """Progress that no one looks at."""


@dataclass(frozen=True)
class Run:
    """What is to be done, with the model's defaults filled in: made once, handed to every step.

    Attributes:
        label: the model's name in the rows.
        config: what decides a row's content; see ``Output.open``.
        parameters: number of the model's weights.
        started_at: for the run's row; ``began`` is the same on the monotonic clock, s, which nobody sets.
    """

    run_id: str
    source: str
    output_uri: str
    settings: RunSettings
    label: str
    config: dict[str, object]
    parameters: int
    started_at: datetime
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Found:
    """The source held against OUTPUT: objects still to be opened, and what is planned and not committed yet."""

    output: Output
    objects: int
    new: ObjectList
    pending: Pending

    @property
    def nothing_to_do(self) -> bool:
        """Whether no object is to be opened and every planned unit is committed."""
        return not len(self.new) and not self.pending.units


NOTHING = Pending(0, 0)


@dataclass(frozen=True)
class Planned:
    """Documents looked into by this run, and all that is to be read; ``stopped`` before all was looked into."""

    documents: int = 0
    documents_failed: int = 0
    pending: Pending = NOTHING
    stopped: bool = False


@dataclass(frozen=True)
class Done:
    """Units committed by this run; ``left`` is how many it was stopped before."""

    units: int = 0
    left: int = 0
    tally: Tally = field(default_factory=Tally)

    def and_unit(self, tally: Tally) -> Done:
        """This and one more unit."""
        return replace(self, units=self.units + 1, tally=self.tally + tally)


@dataclass(frozen=True)
class RunSummary:
    """How a run ended. Counts are of this run alone."""

    run_id: str
    output: str
    status: Literal["finished", "stopped", "nothing to do"]
    objects: int
    documents: int
    documents_failed: int
    units: int
    units_left: int
    tally: Tally
    seconds: float
