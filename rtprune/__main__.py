"""``python -m rtprune`` is the command line."""

from __future__ import annotations

import sys

from rtprune.cli import main

sys.exit(main())
