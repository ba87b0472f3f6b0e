"""Markdown tables made HTML the way OmniDocBench makes them."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ROWS = re.compile(r"\|\s*.*?\s*\|\n", re.DOTALL)


def with_html_tables(text: str) -> str:
    """The text with every run of ``| ... |`` lines as an HTML table; neighbouring tables become one."""
    text = text.replace("\r", "") + "\n"
    for rows in _ROWS.findall(text):
        text = text.replace(rows, _html(rows), 1)
    text = _joined(text)
    return text.replace("<table>", '<table border="1" >').replace("<td>", '<td colspan="1" rowspan="1">')


def _html(markdown: str) -> str:
    """One match as a table: its first line is the head, its second is left out."""
    rows = [row.strip() for row in markdown.strip().split("\n")]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    head = "".join(f"      <th>{cell}</th>\n" for cell in cells[0])
    body = "".join(
        "    <tr>\n" + "".join(f"      <td>{cell}</td>\n" for cell in row) + "    </tr>\n" for row in cells[2:]
    )
    return f"<table>\n  <thead>\n    <tr>\n{head}    </tr>\n  </thead>\n  <tbody>\n{body}  </tbody>\n</table>\n"


def _joined(text: str) -> str:
    done: list[str] = []
    block, inside, last = "", False, ""
    for line in text.split("\n"):
        if "<table>" in line:
            inside = True
            block += last
        elif inside:
            if not _is_rule(last) and "</thead>" not in last:
                block += "\n" + last
            if "</table>" in last and "<table>" not in line:
                inside = False
                done.append(_merged(block))
                block = ""
        else:
            done.append(last)
        last = line
    if last:
        done.append(_merged(block + "\n" + last) if inside or "</table>" in last else last)
    return "\n".join(done)


def _is_rule(line: str) -> bool:
    return ":" in line or "---" in line


def _merged(block: str) -> str:
    """The rows of all tables of a block in one table, without head and body."""
    rows: list[str] = []
    for table in re.findall(r"<table>[\s\S]*?</table>", re.sub(r"<!--[\s\S]*?-->", "", block)):
        lines = _rows_only(
            [
                line.replace("<th>", "<td>").replace("</th>", "</td>") if "<th>" in line else line
                for line in table.split("\n")
            ]
        )
        if len(lines) > 2:
            rows += lines
    return "\n\n<table>\n" + "\n".join(rows) + "\n</table>\n\n"


def _rows_only(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if not re.search(r"</?t(able|head|body)>", line)]
