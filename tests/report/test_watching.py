"""A status is shown again until no run is at work."""

from __future__ import annotations

from io import StringIO

import pytest

from rtprune.dataset import DatasetStatus
from rtprune.report.watching import watched
from tests.report.test_status import AT_WORK, FACTS, KILLED, NOW


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [StringIO(), Terminal()])
def test_it_looks_again_until_no_run_is_at_work(stream: StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtprune.report.watching.LOOK_EVERY_S", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    states = [DatasetStatus(f"look {number}", NOW, FACTS, [AT_WORK]) for number in (1, 2)]
    looks = iter([*states, DatasetStatus("look 3", NOW, FACTS, [KILLED])])
    watched(lambda: next(looks), lambda status: status.uri, stream, redraw=True)
    assert next(looks, None) is None
    shown = stream.getvalue()
    assert [shown.index(f"look {number}") for number in (1, 2, 3)] == sorted(
        shown.index(f"look {number}") for number in (1, 2, 3)
    )
    if not stream.isatty():
        assert shown == "look 1\nlook 2\nlook 3\n"
