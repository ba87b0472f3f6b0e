"""How many workers a Ray cluster carries, and what each of them occupies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CPUS_PER_WORKER = 2
BYTES_PER_PARAMETER = 4  # a CPU computes in float32
BYTES_BESIDE_WEIGHTS = 2**30


@dataclass(frozen=True)
class Placement:
    """Actors of one kind on a cluster.

    Attributes:
        workers: how many actors.
        cpus: logical CPUs each one holds; also its number of computing threads, at least one.
        gpus: logical GPUs each one holds: Ray's bookkeeping, which also sets ``CUDA_VISIBLE_DEVICES``.
    """

    workers: int
    cpus: float
    gpus: float = 0.0

    @property
    def threads(self) -> int:
        """Threads a worker may compute with."""
        return max(1, int(self.cpus))

    def describe(self) -> str:
        """For messages: "2 CPUs and 1 GPU"."""
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


def place_readers(
    nodes: Sequence[Mapping[str, float]], workers: int | None = None, *, parameters: int = 0
) -> Placement:
    """Where the actors that hold the model go: one per GPU where there are any, else one per two CPU cores.

    On CPUs there are no more than memory holds models, and at least one.

    Args:
        nodes: resources of each live node, as in Ray's ``Resources`` ("CPU", "GPU", "memory" in bytes).
        workers: as many as this instead; they then share what there is.
        parameters: number of the model's weights.
    """
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if gpus:
        count = workers or gpus
        return Placement(count, 1.0, 1.0 / math.ceil(count / gpus))
    usable = [node for node in nodes if node.get("CPU", 0) >= 1] or [{"CPU": 1.0}]
    cores = [int(node["CPU"]) for node in usable]
    each = min(CPUS_PER_WORKER, *cores)
    count = sum(core // each for core in cores)
    if workers is None:
        model_bytes = parameters * BYTES_PER_PARAMETER + BYTES_BESIDE_WEIGHTS
        held = [
            min(core // each, int(node["memory"] // model_bytes)) if "memory" in node else core // each
            for node, core in zip(usable, cores, strict=True)
        ]
        return Placement(max(1, sum(held)), float(each))
    if workers == count:
        return Placement(count, float(each))
    share = sum(cores) / workers
    return Placement(workers, float(min(each, int(share))) if share >= 1 else share)


def place_inspectors(nodes: Sequence[Mapping[str, float]], batches: int) -> Placement:
    """Where the actors that look into documents go: one per CPU core, but no more than there are ``batches``."""
    cores = int(sum(node.get("CPU", 0) for node in nodes)) or 1
    return Placement(max(1, min(cores, batches)), 1.0)
