"""Bytes that processes share are whole, cannot be changed, and go with their last descriptor."""

from __future__ import annotations

import os

import pytest

from rtprune.documents.shared_bytes import map_bytes, share_bytes, take_bytes


@pytest.mark.parametrize("data", [b"", b"abc", memoryview(b"abc"), os.urandom(3_000_000)])
def test_bytes_come_out_as_they_went_in(data: bytes | memoryview) -> None:
    file = share_bytes(data)
    mapped = map_bytes(file)
    assert mapped == data
    before = len(os.listdir("/proc/self/fd"))
    assert take_bytes(file) == data
    assert len(os.listdir("/proc/self/fd")) == before - 1
    assert mapped == data, "what is mapped outlives the descriptor"


def test_nobody_can_change_them() -> None:
    file = share_bytes(b"abc")
    for change in (lambda: os.pwrite(file, b"x", 0), lambda: os.ftruncate(file, 1), lambda: os.ftruncate(file, 9)):
        with pytest.raises(PermissionError):
            change()
    assert take_bytes(file) == b"abc"
