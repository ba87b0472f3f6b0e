"""What one end writes, the other reads, however large it becomes."""

from __future__ import annotations

import os

from rtprune.documents.exchange import Exchange


def test_the_other_end_reads_what_was_written_last_and_memory_grows_as_needed() -> None:
    here = Exchange()
    there = Exchange(os.dup(here.file))
    for data in (b"abc", os.urandom(300_000), b"", memoryview(b"short"), os.urandom(5_000_000)):
        there.write(data)
        assert here.read(len(data)) == data
    first = here.read(3)
    there.write(b"xyz")
    assert first != b"xyz", "what was read is a copy"
    here.close()
    there.close()
