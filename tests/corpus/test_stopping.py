"""The first signal lets units finish, the second does not wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from rtprune.corpus.stopping import Stopper


class Said:
    """Counts how often it was told."""

    times = 0

    def __call__(self) -> None:
        self.times += 1


@pytest.fixture(autouse=True)
def as_a_shell_starts_it() -> Iterator[None]:
    """Whatever other tests' Ray has made of the signals in this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_and_the_second_interrupts(number: signal.Signals) -> None:
    said = Said()
    with Stopper(said) as stopper:
        assert not stopper.asked()
        signal.raise_signal(number)
        assert (said.times, stopper.signal) == (0, number), "nothing is written from within a signal handler"
        assert stopper.asked()
        assert stopper.asked()
        assert said.times == 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_before_units_are_at_work_the_first_signal_interrupts() -> None:
    with Stopper(Said(), at_work=False) as stopper:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert stopper.signal == signal.SIGTERM
    with Stopper(Said(), at_work=False) as stopper:
        stopper.begin()
        signal.raise_signal(signal.SIGTERM)
        assert stopper.asked()


def test_second_signal_does_what_it_would_do_without_and_all_is_as_before_in_the_end() -> None:
    class EndedByOthers(BaseException):
        pass

    def of_others(number: int, frame: object) -> None:
        raise EndedByOthers

    before = signal.signal(signal.SIGTERM, of_others)
    try:
        with Stopper(Said()):
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(EndedByOthers):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is of_others
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_it_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def elsewhere() -> None:
        with Stopper(Said()) as stopper:
            found.append((signal.getsignal(signal.SIGTERM) is before, stopper.asked()))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [(True, False)]
