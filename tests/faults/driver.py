"""The command line as a process of its own, to be killed: forked from one that has imported what takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# without Ray, which reads the environment as it is imported
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rtprune.cli", "rtprune.corpus.run", "s3fs"])


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative for a signal, and what it printed."""

    code: int
    said: str
    complained: str


class Driver:
    """One ``rtprune`` command.

    Args:
        arguments: of the command line.
        environment: all of it.
        folder: where its standard output and error are kept.
        before: done in the process before the command; a function of a module.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        before: Callable[[], object] | None = None,
    ) -> None:
        self._said, self._complained = folder / f"{id(self)}.out", folder / f"{id(self)}.err"
        for path in (self._said, self._complained):  # it may be killed before it has opened them
            path.write_bytes(b"")
        self._process = CONTEXT.Process(
            target=_run,
            args=(list(arguments), dict(environment), str(self._said), str(self._complained), before),
            daemon=True,
        )
        self._process.start()

    @property
    def alive(self) -> bool:
        """Whether it is still at work."""
        return self._process.is_alive()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, seconds: float = 240.0) -> Ended:
        """Wait for its end, which must come within ``seconds``."""
        self._process.join(seconds)
        if self.alive:
            self.kill()
            self._process.join()
            raise AssertionError(f"still at work after {seconds:.0f} s: {self._complained.read_text()}")
        return Ended(self._process.exitcode or 0, self._said.read_text(), self._complained.read_text())


def _run(
    arguments: list[str],
    environment: dict[str, str],
    said: str,
    complained: str,
    before: Callable[[], object] | None,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in ((1, said), (2, complained)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    from rtprune.cli import main

    if before is not None:
        before()
    sys.exit(main(arguments))


def stop_before_reading() -> None:
    """In the driver: Ctrl-C once all is planned."""
    from rtprune.corpus import run

    def stopped(*unused: object, **options: object) -> None:
        raise KeyboardInterrupt

    run.read = stopped
