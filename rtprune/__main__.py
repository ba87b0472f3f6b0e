"""``python -m rtprune`` is the command line."""

from __future__ import annotations

import sys

from rtprune.cli import main

if __name__ == "__main__":  # a process spawned by one that was started so imports this again
    sys.exit(main())
