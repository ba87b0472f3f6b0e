"""How many workers a Ray cluster carries, and what each of them occupies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CPUS_PER_WORKER = 2


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


def place_readers(nodes: Sequence[Mapping[str, float]], workers: int | None = None) -> Placement:
    """Where the actors that hold the model go: one per GPU where there are any, else one per two CPU cores.

    Args:
        nodes: resources of each live node, as in Ray's ``Resources`` ("CPU", "GPU").
        workers: as many as this instead; they then share what there is.
    """
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if gpus:
        count = workers or gpus
        return Placement(count, 1.0, 1.0 if count <= gpus else gpus / count)
    cores = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1] or [1]
    each = min(CPUS_PER_WORKER, *cores)
    count = sum(core // each for core in cores)
    if workers is None or workers == count:
        return Placement(count, float(each))
    share = sum(cores) / workers
    return Placement(workers, float(min(each, int(share))) if share >= 1 else share)


def place_inspectors(nodes: Sequence[Mapping[str, float]], batches: int) -> Placement:
    """Where the actors that look into documents go: one per CPU core, but no more than there are ``batches``."""
    cores = int(sum(node.get("CPU", 0) for node in nodes)) or 1
    return Placement(max(1, min(cores, batches)), 1.0)
