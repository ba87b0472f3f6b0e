"""Numbers as people read them, and names as a terminal may be given them."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """``1 page``, ``1,204 pages``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def share_saved(before: int, after: int) -> str:
    """Share of ``before`` that ``after`` lacks: ``18.8 %``."""
    return f"{100 * (1 - after / before):.1f} %" if before else "0 %"


def duration(seconds: float) -> str:
    """``8 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(number: int) -> str:
    """``512 bytes``, ``3.4 kB``, ``1,204.0 MB``."""
    if number < 1000:
        return count(number, "byte")
    return f"{number / 1000:,.1f} kB" if number < 1_000_000 else f"{number / 1_000_000:,.1f} MB"


def one_line(text: str) -> str:
    """``text`` on one line, with what does not print escaped: names of objects are anybody's."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in " ".join(text.split())
    )
