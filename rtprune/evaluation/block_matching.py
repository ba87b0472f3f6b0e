"""Which piece of an answer is meant to be which true block: OmniDocBench's "quick match", on normalised lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from rtprune.evaluation.extra import needed

#: Edit distances as shares of the longer line: below the first two lines are the same, over the last they are not.
SAME, OTHER = 0.25, 0.7
#: Of a part of a line: below the first it may continue a line, below the second it lies in one.
CONTINUES, INSIDE = 0.6, 0.4

Costs = NDArray[np.float64]


@dataclass(frozen=True)
class Match:
    """True lines and the predicted lines that stand for them, both by number; of the latter there may be none."""

    true: tuple[int, ...]
    predicted: tuple[int, ...]


def distance(one: Sequence[object], other: Sequence[object]) -> int:
    """Edits between two sequences."""
    return int(needed("rapidfuzz.distance").Levenshtein.distance(one, other))


def share(one: str, other: str) -> float:
    """Edits per character of the longer line; 0 for two empty ones."""
    return distance(one, other) / max(len(one), len(other), 1)


def costs(true: Sequence[str], predicted: Sequence[str]) -> Costs:
    """``share`` of each true with each predicted line."""
    return np.array([[share(a, b) for b in predicted] for a in true], dtype=float).reshape(len(true), len(predicted))


def match_lines(true: Sequence[str], predicted: Sequence[str]) -> list[Match]:
    """All true lines in matches, the surplus of predicted ones left out.

    Neighbouring predicted lines may be joined for one true line, and several true lines may lie in one predicted line.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    left: list[int] = []
    assigned = _assign(true, predicted)
    for number in range(len(true)):
        if number in assigned:
            groups[assigned[number]] = [number]
        else:
            left.append(number)
    seen = set(assigned)
    for number, line in enumerate(predicted):
        inside = [each for each in left if _inside(true[each], line)]
        if inside:
            group = groups.setdefault((number,), [])
            group += [each for each in inside if each not in seen]
            seen.update(inside)
    matches = [Match(tuple(sorted(group)), key) for key, group in groups.items() if group]
    matches += _leftovers(true, predicted, seen, {number for key in groups for number in key})
    in_matches = {number for match in matches for number in match.true}
    return matches + [Match((number,), ()) for number in range(len(true)) if number not in in_matches]


def _assign(true: Sequence[str], predicted: Sequence[str]) -> dict[int, tuple[int, ...]]:
    """The cheapest assignment of true lines to predicted lines, some joined; without pairs that are not alike."""
    table = costs(true, predicted)
    joined = _join(table, true, predicted)
    if joined is None:
        joined = [(number,) for number in range(len(predicted))]
    else:
        table = costs(true, [" ".join(predicted[number] for number in each) for each in joined])
    rows, columns = linear_sum_assignment(table)
    return {int(row): joined[column] for row, column in zip(rows, columns, strict=True) if table[row, column] <= OTHER}


def _join(table: Costs, true: Sequence[str], predicted: Sequence[str]) -> list[tuple[int, ...]] | None:
    """The predicted lines, neighbours joined that together are more like a true line; None where none is looked at."""
    alike = np.argwhere(table < SAME)
    done_true, done_predicted = {int(each) for each in alike[:, 0]}, {int(each) for each in alike[:, 1]}
    open_predicted = [number for number in range(len(predicted)) if number not in done_predicted]
    if not open_predicted:
        return None
    runs = []
    for number, line in enumerate(true):
        if number not in done_true:
            grown = [_grown(line, predicted, start, done_predicted) for start in open_predicted]
            runs.append(min(((run, share(line, _text(predicted, run))) for run in grown), key=lambda each: each[1]))
    if not runs:
        return None
    joined: list[tuple[int, ...]] = [(number,) for number in range(len(predicted))]
    for run in _disjoint(runs):
        place = joined.index((run[0],))
        joined[place : place + len(run)] = [run]
    return joined


def _text(predicted: Sequence[str], run: Sequence[int]) -> str:
    return " ".join(predicted[number] for number in run)


def _grown(line: str, predicted: Sequence[str], start: int, done: set[int]) -> tuple[int, ...]:
    """The predicted lines from ``start`` on that continue one another within the true line."""
    run = [start]
    while run[-1] + 1 < len(predicted) and run[-1] + 1 not in done:
        longer = [*run, run[-1] + 1]
        if not _continues(line, [predicted[number] for number in longer]):
            break
        run = longer
        if len(_text(predicted, run)) > len(line):
            break
    return tuple(run)


def _continues(line: str, parts: Sequence[str]) -> bool:
    if share(line, " ".join(parts)) > share(line, " ".join(parts[:-1])):
        return False
    likenesses = [_best_window(line, part, CONTINUES) for part in parts]
    last = likenesses[-1]
    if last is None or last >= CONTINUES:
        return False
    return all(each is not None and each <= CONTINUES for each in likenesses[:-1])


def _best_window(line: str, part: str, limit: float) -> float | None:
    """The least edits per character between ``part`` and as long a part of ``line``; None where that is shorter.

    What is over ``limit`` is only known to be over it.
    """
    if not part or len(part) > len(line):
        return None
    measure, best = needed("rapidfuzz.distance").Levenshtein.distance, int(limit * len(part)) + 1
    for at in range(len(line) - len(part) + 1):
        best = min(best, measure(line[at : at + len(part)], part, score_cutoff=best))
        if best == 0:
            break
    return float(best / len(part))


def _inside(true: str, line: str) -> bool:
    best = _best_window(line, true, INSIDE)
    return best is not None and best < INSIDE


Run = tuple[tuple[int, ...], float]


def _disjoint(runs: Sequence[Run]) -> list[tuple[int, ...]]:
    """Of runs that overlap, the set without overlap that is cheapest on average."""
    groups: list[list[Run]] = []
    for run in sorted(runs, key=lambda each: each[0][0]):
        if groups and any(set(run[0]) & set(other[0]) for other in groups[-1]):
            groups[-1].append(run)
        else:
            groups.append([run])
    return [run for group in groups for run in _cheapest(group)]


def _cheapest(group: Sequence[Run]) -> list[tuple[int, ...]]:
    paths: list[list[Run]] = [[group[0]]]
    for run in group[1:]:
        placed = False
        for path in paths:
            same = [other for other in path if other[0] == run[0]]
            if same:
                placed = True
                if same[0][1] > run[1]:
                    path.remove(same[0])
                    path.append(run)
            elif not any(set(other[0]) & set(run[0]) for other in path):
                placed = True
                path.append(run)
        if not placed:
            paths.append([run])
    best = min(paths, key=lambda path: sum(cost for _, cost in path) / len(path))
    return [run for run, _ in best]


def _leftovers(true: Sequence[str], predicted: Sequence[str], done: set[int], used: set[int]) -> list[Match]:
    """What is left on both sides, paired as cheaply as can be however unlike."""
    rest_true, rest_predicted = list(set(range(len(true))) - done), list(set(range(len(predicted))) - used)
    if not rest_true or not rest_predicted:
        return []
    table = costs([true[number] for number in rest_true], [predicted[number] for number in rest_predicted])
    rows, columns = linear_sum_assignment(table)
    return [Match((rest_true[row],), (rest_predicted[column],)) for row, column in zip(rows, columns, strict=True)]
