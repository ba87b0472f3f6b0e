"""The parts of docs/ that are written from the code: ``python -m rtprune.report.reference docs`` renews them.

A generated part stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from rtprune import errors
from rtprune.corpus import unit_queue
from rtprune.dataset.schema import DOCUMENTS, PAGES, RUNS, columns

_PART = re.compile(r"(<!-- begin ([a-z-]+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def reasons() -> str:
    """Every value of column ``reason``."""
    rows = (
        (f"`{one}`", one.meaning, "yes" if one.passing else "no", ", ".join(one.tables), f"`{one.name}`")
        for one in errors.Reason
    )
    return _table(("`reason`", "meaning", "trying again can help", "rows of", "in Python"), rows)


def exceptions() -> str:
    """Every exception of the package and what it is raised for."""
    family = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, errors.RTPruneError)]
    rows = (
        (
            f"`{one.__name__}`",
            f"`{one.__mro__[1].__name__}`",
            _first_paragraph(one),
            "yes" if one.retryable else "no",
            str(one.exit_code),
        )
        for one in family
    )
    return _table(("exception", "is a", "meaning", "trying again can help", "exit code"), rows)


def unit_states() -> str:
    """The table in the docstring of ``rtprune.corpus.unit_queue``."""
    lines = (unit_queue.__doc__ or "").splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("===")]
    starts = [match.start() for match in re.finditer(r"=+", lines[rules[0]])]
    bounds = [slice(begin, end) for begin, end in zip(starts, [*starts[1:], None], strict=True)]
    cells = [[_markdown(line[bound].strip()) for bound in bounds] for line in lines[rules[0] + 1 : rules[2]]]
    return _table(cells[0], cells[2:])


def column_table(schema: pa.Schema) -> str:
    """The columns of ``PAGES``, ``DOCUMENTS`` or ``RUNS``."""
    rows = (
        (f"`{one.name}`", one.type, "yes" if one.nullable else "", _markdown(one.meaning)) for one in columns(schema)
    )
    return _table(("column", "type", "may be null", "meaning"), rows)


PARTS: Mapping[str, Callable[[], str]] = {
    "reasons": reasons,
    "exceptions": exceptions,
    "unit-states": unit_states,
    "pages": lambda: column_table(PAGES),
    "documents": lambda: column_table(DOCUMENTS),
    "runs": lambda: column_table(RUNS),
}


def renewed(page: str) -> str:
    """The text of a page with its generated parts as they should be now. Raises ``KeyError`` for an unknown part."""
    return _PART.sub(lambda match: f"{match[1]}{PARTS[match[2]]()}{match[3]}", page)


def _first_paragraph(thing: type) -> str:
    return _markdown(" ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split()))


def _markdown(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    for file in sorted(Path(sys.argv[1]).glob("*.md")):
        text = file.read_text(encoding="utf-8")
        if text != renewed(text):
            file.write_text(renewed(text), encoding="utf-8")
            print(f"renewed {file}")
