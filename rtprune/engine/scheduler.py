"""When waiting pages take free slots: at once, or once a prefill costs less than the slots that wait for it."""

from __future__ import annotations

from dataclasses import dataclass

_MEMORY = 0.9  # share of its weight that a prefill keeps when the next one is measured


class Scheduler:
    """Decides whether waiting pages may join those that are being decoded.

    A prefill stops every page at work. A part of that time grows with the number of pages that join, and is spent
    whenever they do; the rest, the fixed part, is saved by joining together. Waiting costs as well: slots are idle
    meanwhile. So pages join as soon as the slots' idle time has added up to what the fixed part costs the pages at
    work. Whatever comes, both together are then at most twice the least that they could have been (the argument for
    hiring skis until the hire has cost their price).
    """

    def __init__(self) -> None:
        self._prefills = _Line()
        self._idle_ms = 0.0

    @property
    def fixed_ms(self) -> float:
        """What a prefill takes however few pages join, as far as is known; 0 before the first one."""
        return self._prefills.intercept()

    def stepped(self, milliseconds: float, free: int) -> None:
        """Take note of a decode step during which so many slots were free."""
        self._idle_ms += milliseconds * free

    def joined(self, milliseconds: float, pages: int) -> None:
        """Take note of a prefill, with all that was done for it while the other pages waited."""
        self._prefills.add(float(pages), milliseconds)
        self._idle_ms = 0.0

    def may_join(self, free: int, live: int) -> bool:
        """Whether pages may take the ``free`` slots now, while ``live`` pages are being decoded."""
        return free > 0 and self._idle_ms >= live * self.fixed_ms


@dataclass
class _Line:
    """A straight line through points that come one by one; later ones weigh more."""

    weight: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def add(self, x: float, y: float) -> None:
        """Take one more point."""
        for name, value in (("weight", 1.0), ("x", x), ("y", y), ("xx", x * x), ("xy", x * y)):
            setattr(self, name, _MEMORY * getattr(self, name) + value)

    def intercept(self) -> float:
        """Where the line meets x = 0, between 0 and the mean of y.

        Points of one and the same x say nothing of it: then the fixed part is taken to be what one page adds.
        """
        if not self.weight:
            return 0.0
        x, y = self.x / self.weight, self.y / self.weight
        spread = self.xx / self.weight - x * x
        if spread <= 1e-6 * x * x:
            return y / (x + 1.0)
        slope = (self.xy / self.weight - x * y) / spread
        return min(max(0.0, y - slope * x), y)
