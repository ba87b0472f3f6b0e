"""When Prefect should try a step again: every step goes on where it was, so a second try costs what is missing."""

from __future__ import annotations

from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.states import State, get_state_exception

RETRIES = 3
RETRY_DELAYS_S = [5, 30, 120]


def store_may_be_back(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Only what the package marks as worth it is tried again: the store failed; wrong use stays wrong."""
    return bool(getattr(get_state_exception(state), "retryable", False))


#: Options of every task. Inputs are large and hold handles, and the dataset itself is the memory: nothing to cache.
STEP: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": RETRY_DELAYS_S,
    "retry_condition_fn": store_may_be_back,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}
