"""A compaction that waits for its start. Made to be killed.

``python -m tests.dataset.compact_loop OUTPUT TARGET``
"""

from __future__ import annotations

import sys

from rtprune.dataset import Output, compact_dataset


def main(output_uri: str, target: str) -> None:
    """Begin when a line comes in, and say so first."""
    output = Output.existing(output_uri)
    print("ready", flush=True)
    sys.stdin.readline()
    print("begun", flush=True)
    compact_dataset(output, target=int(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
