"""Prefect flows: what runs, in what order, on which schedule."""
