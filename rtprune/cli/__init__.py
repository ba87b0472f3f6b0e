"""The command line: ``rtprune page``, ``run``, ``models``, ``stats``, ``compact``, ``verify``, ``eval``, ``bench``."""

from rtprune.cli.app import app, main

__all__ = ["app", "main"]
