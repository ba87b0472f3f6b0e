"""How sure the decoder was of what it read: which pages to distrust, and where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

WINDOW = 16  # tokens: about a line's worth of doubt, which the mean over a page does not show


@dataclass(frozen=True)
class Confidence:
    """What the decoder's probabilities say of a page.

    Attributes:
        mean: log-probability of a token of the answer, in nats, mean over all; 0 is certain.
        weakest: the same over those `WINDOW` tokens in a row for which it is least.
        weakest_at: how many characters of the text stand before these.
    """

    mean: float
    weakest: float
    weakest_at: int


def confidence(log_probabilities: Sequence[float], characters: Callable[[int], int], most: int) -> Confidence | None:
    """Confidence in an answer; ``None`` where nothing was said.

    Args:
        log_probabilities: of each token as it was said, in nats. A guess that was right has its own.
        characters: how many characters of text the first so many tokens give.
        most: of all of them.
    """
    if not log_probabilities:
        return None
    window = min(WINDOW, len(log_probabilities))
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(log_probabilities, dtype=np.float64))])
    means = (sums[window:] - sums[:-window]) / window
    begin = int(means.argmin())
    mean = sums[-1] / len(log_probabilities)
    return Confidence(round(float(mean), 6), round(float(means[begin]), 6), min(most, characters(begin)))
