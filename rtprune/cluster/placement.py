"""How many workers a Ray cluster carries, and what each of them occupies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CPUS_PER_WORKER = 2
BYTES_PER_PARAMETER = 4  # a CPU computes in float32
BYTES_BESIDE_WEIGHTS = 2**30
MOST_RENDERERS = 8  # for one worker: what one GPU reads is rendered by fewer


@dataclass(frozen=True)
class Placement:
    """Actors of one kind on a cluster.

    Attributes:
        workers: how many actors.
        cpus: logical CPUs each one holds; also its number of computing threads, at least one.
        gpus: logical GPUs each one holds: Ray's bookkeeping, which also sets ``CUDA_VISIBLE_DEVICES``.
        renderers: processes that render pages for each one.
    """

    workers: int
    cpus: float
    gpus: float = 0.0
    renderers: int = 1

    @property
    def threads(self) -> int:
        """Threads a worker may compute with."""
        return max(1, int(self.cpus))

    def describe(self) -> str:
        """For messages: "2 CPUs and 1 GPU"."""
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


def place_readers(
    nodes: Sequence[Mapping[str, float]], workers: int | None = None, *, parameters: int = 0, reading: bool = True
) -> Placement:
    """Where the actors that hold the model go: one per GPU where there are any, else one per two CPU cores.

    On CPUs there are no more than memory holds models, and at least one.

    Args:
        nodes: resources of each live node, as in Ray's ``Resources`` ("CPU", "GPU", "memory" in bytes).
        workers: as many as this instead; they then share what there is.
        parameters: number of the model's weights.
        reading: whether there is a model to read with; without one a worker is a core that renders.
    """
    if not reading:
        total = int(sum(node.get("CPU", 0) for node in nodes)) or 1
        return Placement(workers or total, min(1.0, total / (workers or total)))
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if gpus:
        count = workers or gpus
        return _beside_gpus(nodes, count, 1.0 / math.ceil(count / gpus))
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


def _beside_gpus(nodes: Sequence[Mapping[str, float]], workers: int, share: float) -> Placement:
    """A core for the worker itself; of the others on its node, even shares for renderers."""
    cores = [node.get("CPU", 1.0) * share / node["GPU"] for node in nodes if node.get("GPU", 0)]
    renderers = max(1, min(MOST_RENDERERS, int(min(cores)) - 1))
    return Placement(workers, 1.0 + renderers if min(cores) >= 1 + renderers else 1.0, share, renderers)


def place_inspectors(nodes: Sequence[Mapping[str, float]], batches: int) -> Placement:
    """Where the actors that look into documents go: one per CPU core, but no more than there are ``batches``."""
    cores = int(sum(node.get("CPU", 0) for node in nodes)) or 1
    return Placement(max(1, min(cores, batches)), 1.0)
