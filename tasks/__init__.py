"""Prefect tasks: one step of a flow each."""
