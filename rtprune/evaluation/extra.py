"""The libraries of the extra ``rtprune[eval]``, imported when a score needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from rtprune.errors import UsageError


def needed(module: str) -> Any:
    """A module of the extra. Raises ``UsageError`` where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(f"scoring needs {module}, which is not installed", "pip install 'rtprune[eval]'") from error
