"""The upkeep flow: many small data files into few large ones."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from rtprune.dataset import Compaction
from rtprune.dataset.compact import LARGEST_TARGET_MB, target_bytes
from tasks.compact import compact


@flow(name="compact-dataset", flow_run_name="{output}")
def compact_dataset(
    output: str, target_mb: Annotated[int, Field(ge=1, le=LARGEST_TARGET_MB)] | None = None
) -> Compaction:
    """Rewrite the small data files of a dataset into large ones, also while runs add to it and readers read it.

    Args:
        output: Where the dataset is: a folder or an s3:// prefix.
        target_mb: Size of the new files in MB; files smaller than half of it are gathered. 128 when absent.
    """
    return compact(output, target_bytes(target_mb))
