"""olmOCR-bench: its folder as downloaded, a system's answers, and the score with its interval."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtprune.errors import UsageError
from rtprune.evaluation.facts import KINDS, Fact, check
from rtprune.evaluation.formulas import FormulaRenderer, NoRenderer

#: The name under which facts count that the benchmark adds itself.
ADDED = "baseline"
_KNOWN = {"pdf", "page", "id", "type"}


@dataclass(frozen=True)
class FactScore:
    """What became of one fact.

    Attributes:
        passed: None where it was not judged.
        share: of the page's answers that agree with it; it passes with more than half.
        note: why it failed or was not judged.
        ratio: the likeness found, of ``present`` and ``absent``.
        threshold: the likeness needed.
        answers: how many answers the page has.
    """

    fact: Fact
    passed: bool | None
    share: float
    note: str
    ratio: float | None
    threshold: float | None
    answers: int


@dataclass(frozen=True)
class Bench:
    """The benchmark's folder.

    Attributes:
        facts: in the order of their files, the added ones last.
        faulty: lines that are no fact, each with its place and what is wrong.
    """

    facts: Sequence[Fact]
    faulty: Sequence[str]


@dataclass(frozen=True)
class Total:
    """The score of a system.

    Attributes:
        score: mean over the fact files of the share that passed; None where nothing was judged.
        low: lower end of the interval that 95 % of resamplings fall into.
        high: its upper end.
        by_file: file -> (passed, judged).
        by_kind: kind -> (passed, judged).
        missing: pages that have facts and no answer; their facts failed.
        errors: facts that could not be held against an answer; they failed, and the original's program prints 0 for
            a system with such a fact or a missing page.
        unjudged: facts left out of every figure.
    """

    score: float | None
    low: float | None
    high: float | None
    by_file: Mapping[str, tuple[int, int]]
    by_kind: Mapping[str, tuple[int, int]]
    missing: Sequence[str]
    errors: Sequence[str]
    unjudged: Sequence[str]


def load_bench(folder: Path) -> Bench:
    """The facts of ``folder/*.jsonl`` and one of kind baseline for each PDF that has none of its own.

    PDFs lie in ``folder/pdfs``, or in the folder itself where there is no such folder. Raises ``UsageError`` where the
    folder holds no fact.
    """
    facts: list[Fact] = []
    faulty: list[str] = []
    known: set[str] = set()
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                fact = _fact(json.loads(line), path.name)
                if fact.id in known:
                    raise ValueError(f"id {fact.id} is there already")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                faulty.append(f"{path.name}:{number}: {type(error).__name__}: {error}")
                continue
            known.add(fact.id)
            facts.append(fact)
    if not facts:
        raise UsageError(
            f"{folder} holds no facts of olmOCR-bench",
            "give the folder with its *.jsonl files and its folder pdfs, as downloaded",
        )
    pdfs = folder / "pdfs" if (folder / "pdfs").is_dir() else folder
    own = {fact.pdf for fact in facts if fact.kind == "baseline"}
    for path in sorted(pdfs.rglob("*.pdf")):
        name = path.relative_to(pdfs).as_posix()
        if name not in own:
            facts.append(Fact(name, 1, f"{name}_baseline", "baseline", ADDED))
    return Bench(facts, faulty)


def _fact(line: Mapping[str, Any], file: str) -> Fact:
    fields = {name: value for name, value in line.items() if name not in _KNOWN}
    if not line["pdf"] or not line["id"]:
        raise ValueError("pdf or id is empty")
    if not isinstance(fields.get("max_diffs", 0), int) or fields.get("max_diffs", 0) < 0:
        raise ValueError("max_diffs is no number from 0")
    return Fact(line["pdf"], int(line["page"]), line["id"], line["type"], file, fields)


def answers_of(folder: Path, fact: Fact) -> list[Path]:
    """The answers to a fact's page: ``NAME_pg1_repeat1.md`` and further repeats, else ``NAME.md`` for page 1."""
    stem = fact.pdf.rpartition(".")[0] or fact.pdf
    parent = (folder / stem).parent
    name = re.compile(rf"{re.escape(Path(stem).name)}_pg{fact.page}_repeat\d+\.md")
    found = sorted(each for each in parent.glob("*.md") if name.fullmatch(each.name)) if parent.is_dir() else []
    plain = folder / f"{stem}.md"
    return found or ([plain] if fact.page == 1 and plain.is_file() else [])


def score_facts(bench: Bench, answers: Path, renderer: FormulaRenderer | None) -> Iterator[FactScore]:
    """Every fact held against the answers to its page."""
    for fact in bench.facts:
        paths = answers_of(answers, fact)
        if fact.kind not in KINDS:
            yield FactScore(fact, None, 0.0, f"unknown type {fact.kind}", None, None, len(paths))
        elif not paths:
            yield FactScore(fact, False, 0.0, MISSING, None, None, 0)
        else:
            yield _judged(fact, paths, renderer)


MISSING = "no answer"
_ERROR = "error: "


def _judged(fact: Fact, paths: Sequence[Path], renderer: FormulaRenderer | None) -> FactScore:
    passed, verdicts, notes = 0, [], []
    for path in paths:
        try:
            verdict = check(fact, path.read_text(encoding="utf-8"), renderer)
        except NoRenderer:
            return FactScore(fact, None, 0.0, "needs a browser and KaTeX", None, None, len(paths))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            notes.append(f"{_ERROR}{type(error).__name__}: {error}")
            continue
        verdicts.append(verdict)
        passed += verdict.passed
        if verdict.note:
            notes.append(verdict.note)
    share = passed / len(paths)
    first = verdicts[0] if verdicts else None
    errors = [note for note in notes if note.startswith(_ERROR)]
    return FactScore(
        fact,
        share > 0.5,
        share,
        next(iter(errors or notes), ""),
        first.ratio if first else None,
        first.threshold if first else None,
        len(paths),
    )


def total(scores: Sequence[FactScore], seed: int = 0, resamples: int = 1000) -> Total:
    """The benchmark's score. The interval resamples facts within each file; ``seed`` makes it repeatable."""
    files: defaultdict[str, list[bool]] = defaultdict(list)
    kinds: defaultdict[str, list[bool]] = defaultdict(list)
    for each in scores:
        if each.passed is not None:
            files[each.fact.file].append(each.passed)
            kinds[each.fact.kind].append(each.passed)
    low, high = interval(list(files.values()), seed, resamples)
    return Total(
        float(np.mean([np.mean(passed) for passed in files.values()])) if files else None,
        low,
        high,
        {name: (sum(passed), len(passed)) for name, passed in files.items()},
        {name: (sum(kinds[name]), len(kinds[name])) for name in KINDS if name in kinds},
        sorted(Counter(f"{each.fact.pdf} page {each.fact.page}" for each in scores if each.note == MISSING)),
        [f"{each.fact.id}: {each.note}" for each in scores if each.note.startswith(_ERROR)],
        [f"{each.fact.id}: {each.note}" for each in scores if each.passed is None],
    )


def interval(
    groups: Sequence[Sequence[float]], seed: int, resamples: int = 1000
) -> tuple[float, float] | tuple[None, None]:
    """Bounds of the mean over groups of their means that 95 % of resamplings within the groups keep; seeded."""
    if not groups:
        return None, None
    rng = np.random.default_rng(seed)
    means = [rng.choice(np.asarray(group, float), (resamples, len(group))).mean(axis=1) for group in groups]
    low, high = np.percentile(np.mean(means, axis=0), [2.5, 97.5])
    return float(low), float(high)
