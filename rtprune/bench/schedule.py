"""How full the decoder's slots are: the engine's scheduler with a clock in the place of a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any, Protocol

import numpy as np

from rtprune.engine.scheduler import Scheduler

SLOTS = (16, 32, 64)
GOAL = 0.95
UNIT_PAGES = 64
PAGES_PER_SLOT = 30
MEAN_TOKENS, SIGMA = 1000, 0.7
LONGEST, LONGEST_SHARE = 8192, 0.01


class Rule(Protocol):
    """What decides when pages join; see `Scheduler`."""

    def stepped(self, milliseconds: float, free: int) -> None: ...
    def joined(self, milliseconds: float, pages: int) -> None: ...
    def may_join(self, free: int, live: int) -> bool: ...


class Quarter:
    """Pages wait until a quarter of the slots is free."""

    def __init__(self, slots: int) -> None:
        self._least = max(1, slots // 4)

    def stepped(self, milliseconds: float, free: int) -> None:
        """Nothing depends on it."""

    def joined(self, milliseconds: float, pages: int) -> None:
        """Nothing depends on it."""

    def may_join(self, free: int, live: int) -> bool:
        """Whether so many slots are free."""
        return free >= self._least or not live


@dataclass(frozen=True)
class Costs:
    """What the simulated device takes, in milliseconds: a step, a prefill, and each page that joins in it."""

    step_ms: float
    prefill_ms: float
    page_ms: float


@dataclass(frozen=True)
class Filled:
    """How a run of pages went, while any page was still waiting.

    Attributes:
        live: share of slot-steps in which a page was decoded.
        stalled: share of the time that went to the fixed part of prefills.
        joins: prefills.
    """

    live: float
    stalled: float
    joins: int


def answer_lengths(count: int, seed: int) -> np.ndarray:
    """Tokens of ``count`` answers: lognormal with mean 1,000 and sigma 0.7, one in a hundred at the limit of 8,192."""
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(np.log(MEAN_TOKENS) - SIGMA**2 / 2, SIGMA, count)
    lengths[rng.random(count) < LONGEST_SHARE] = LONGEST
    return np.clip(lengths, 1, LONGEST).astype(np.int64)


def play(lengths: np.ndarray, slots: int, rule: Rule, costs: Costs, unit_pages: int | None = None) -> Filled:
    """Decode answers of these ``lengths`` in ``slots``; a unit's pages wait for the unit before, if there are units."""
    left = np.zeros(slots, np.int64)  # tokens that each slot's page has still to say; 0 where the slot is free
    taken = steps = live_steps = joins = 0
    step_time = page_time = 0.0
    while taken < len(lengths):
        live = int(np.count_nonzero(left))
        ready = len(lengths) - taken
        if unit_pages:
            ready = min(ready, unit_pages - taken % unit_pages) if taken % unit_pages or not live else 0
        joining = min(slots - live, ready)
        if joining and rule.may_join(slots - live, live):
            left[np.flatnonzero(left == 0)[:joining]] = lengths[taken : taken + joining]
            taken += joining
            joins += 1
            page_time += costs.page_ms * joining
            rule.joined(costs.prefill_ms + costs.page_ms * joining, joining)
            continue
        rule.stepped(costs.step_ms, slots - live)
        left -= left > 0
        live_steps += live
        steps += 1
        step_time += costs.step_ms
    fixed = joins * costs.prefill_ms
    return Filled(live_steps / (slots * steps), fixed / (fixed + page_time + step_time), joins)


def bench_schedule(*, costs: Costs, seeds: int) -> dict[str, Any]:
    """Fill slots with pages by the engine's rule and by two others; plain values ready for JSON.

    Returns:
        "costs"; "goal"; "rows", one for each rule and number of slots: mean, least and largest "live" share over the
        seeds, mean "stalled" share, and "joins" for a hundred pages.
    """
    rows = []
    for slots in SLOTS:
        for name, unit_pages in (("as the engine does", None), ("a quarter free", None), ("unit by unit", UNIT_PAGES)):
            played = []
            for seed in range(seeds):
                rule: Rule = Scheduler() if name == "as the engine does" else Quarter(slots)
                lengths = answer_lengths(PAGES_PER_SLOT * slots, seed)
                played.append(play(lengths, slots, rule, costs, unit_pages))
            live = [one.live for one in played]
            rows.append(
                {
                    "slots": slots,
                    "rule": name,
                    "live": round(mean(live), 4),
                    "least": round(min(live), 4),
                    "most": round(max(live), 4),
                    "stalled": round(mean(one.stalled for one in played), 4),
                    "joins": round(100 * mean(one.joins for one in played) / (PAGES_PER_SLOT * slots), 1),
                }
            )
    return {"costs": asdict(costs), "goal": GOAL, "seeds": seeds, "rows": rows}


def report(found: dict[str, Any]) -> str:
    """The measurement as a table."""
    costs = found["costs"]
    lines = [
        f"answers of {MEAN_TOKENS:,} tokens in the mean (lognormal, sigma {SIGMA}), "
        f"{LONGEST_SHARE:.0%} at {LONGEST:,}; {found['seeds']} seeds",
        f"a step {costs['step_ms']:g} ms, a prefill {costs['prefill_ms']:g} ms and {costs['page_ms']:g} ms a page; "
        "simulated: no device was measured",
        "",
        f"{'slots':>5}  {'pages join':<20}{'live slot-steps':>16}{'(least to most)':>19}"
        f"{'stalled':>9}{'joins/100 pages':>17}",
    ]
    lines += [
        f"{row['slots']:>5}  {row['rule']:<20}{row['live']:>16.1%}{row['least']:>10.1%} to {row['most']:.1%}"
        f"{row['stalled']:>9.1%}{row['joins']:>17.1f}"
        for row in found["rows"]
    ]
    lines += ["", f"goal: {found['goal']:.0%} live as the engine does, counted while pages wait"]
    return "\n".join(lines)
