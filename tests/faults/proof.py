"""What must hold of a dataset after any fault."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rtprune.dataset import Output, verify_dataset
from tests.corpus import assert_complete


def assert_sound(output: str) -> None:
    """Whatever is committed is committed once and as it was written."""
    verdict = verify_dataset(Output.existing(output))
    assert verdict.sound, verdict.off


def assert_whole(output: str) -> Counter[str]:
    """Every page planned is in exactly one row, nothing lies about; returns how often each status occurs."""
    verdict = verify_dataset(Output.existing(output))
    assert verdict.sound, verdict.off
    assert not verdict.harmless, verdict.harmless
    assert (verdict.unread_units, verdict.unread_pages) == (0, 0)
    statuses = assert_complete(output)
    assert verdict.pages == verdict.planned_pages == statuses.total()
    return statuses


def state(folder: Path) -> dict[str, int]:
    """Every file below ``folder`` with its modification time, ns."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
