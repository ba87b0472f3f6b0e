"""Which free tokens stay and what becomes of the others, by name: RTPrune, its ablations, its rivals and plug-ins.

A method works in two steps. First it orders all tokens, from the one most worth keeping to the least, on the device and
without knowing how many will stay. Then, with that number known, it says which stay and what they carry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from rtprune.plugins import Registry
from rtprune.pruning import rivals
from rtprune.pruning.ratio import l2_norms
from rtprune.pruning.selection import by_score
from rtprune.pruning.tokens import Cues, FreeTokens
from rtprune.pruning.transport import merge as merge_by_transport

if TYPE_CHECKING:
    from rtprune.pruning.sequence import PruneConfig

ScoreName = Literal["l2-norm", "variance", "entropy"]
MergeName = Literal["transport", "none", "nearest"]


@dataclass(frozen=True)
class Method:
    """A way of pruning.

    Attributes:
        order: tokens, configuration -> int64 [P] on the tokens' device, their indices, from the token most worth
            keeping to the least.
        keep: tokens, that order (on the CPU), a number M of 1..P-1, configuration -> the indices of the M tokens that
            stay, int64 [M], ascending, on the CPU; and what they carry, [M, D], on the tokens' device.
        needs: names of the `Cues` that it cannot work without.
    """

    order: Callable[[FreeTokens, PruneConfig], Tensor]
    keep: Callable[[FreeTokens, Tensor, int, PruneConfig], tuple[Tensor, Tensor]]
    needs: tuple[str, ...] = ()


def variances(features: Tensor) -> Tensor:
    """Variance of each token of ``features`` [N, D] over its channels: float32 [N]; summed as `l2_norms` are."""
    return features.double().var(dim=-1, correction=0).float()


def entropies(features: Tensor) -> Tensor:
    """Shannon entropy, in nats, of each token's softmax over its channels: float32 [N], of ``features`` [N, D].

    The paper ablates an entropy score without defining it; the flattest tokens are kept, which agrees with the poor
    accuracy that it reports.
    """
    logs = torch.log_softmax(features.double(), dim=-1)
    return -(logs.exp() * logs).sum(dim=-1).float()


def transport(tokens: FreeTokens, kept: Tensor, dropped: Tensor, config: PruneConfig) -> Tensor:
    """float32 [M, D]: the kept tokens with the dropped ones merged into them by optimal transport."""
    scores = tokens.cosines_between(kept, dropped)
    return merge_by_transport(
        tokens.take(kept),
        tokens.take(dropped),
        scores,
        config.dustbin,
        config.regularisation,
        config.alpha,
        config.solver,
    )


def no_merge(tokens: FreeTokens, kept: Tensor, dropped: Tensor, config: PruneConfig) -> Tensor:
    """[M, D]: the kept tokens as they are."""
    return tokens.take(kept)


def nearest(tokens: FreeTokens, kept: Tensor, dropped: Tensor, config: PruneConfig) -> Tensor:
    """float32 [M, D]: each kept token averaged with the dropped ones that resemble it more than any other kept one.

    Of kept tokens that a dropped one resembles alike, the first takes it.
    """
    home = tokens.cosines_between(dropped, kept).max(dim=1).indices
    sums = tokens.take(kept).float().index_add(0, home, tokens.take(dropped).float())
    counts = torch.ones(len(kept), device=sums.device).index_add(0, home, torch.ones(len(dropped), device=sums.device))
    return sums / counts[:, None]


#: What makes a token worth keeping: [P, D] -> float32 [P].
SCORES: dict[ScoreName, Callable[[Tensor], Tensor]] = {
    "l2-norm": l2_norms,
    "variance": variances,
    "entropy": entropies,
}

#: What becomes of the dropped tokens.
MERGES: dict[MergeName, Callable[[FreeTokens, Tensor, Tensor, PruneConfig], Tensor]] = {
    "transport": transport,
    "none": no_merge,
    "nearest": nearest,
}


def first_merged(tokens: FreeTokens, order: Tensor, count: int, config: PruneConfig) -> tuple[Tensor, Tensor]:
    """Keep the first ``count`` of the order, merging the others into them as ``config.merge`` says; a `Method.keep`."""
    kept, dropped = order[:count].sort().values, order[count:].sort().values
    device = tokens.features.device
    return kept, MERGES[config.merge](tokens, kept.to(device), dropped.to(device), config)


def first_alone(tokens: FreeTokens, order: Tensor, count: int, config: PruneConfig) -> tuple[Tensor, Tensor]:
    """Keep the first ``count`` of the order as they are; a `Method.keep`."""
    kept = order[:count].sort().values
    return kept, tokens.take(kept.to(tokens.features.device))


_OWN: dict[str, Method | str] = {
    "rtprune": Method(lambda tokens, config: by_score(SCORES[config.score](tokens.features)), first_merged),
    # the rivals are what their papers say; they ignore score and merge
    "random": Method(lambda tokens, config: rivals.at_random(tokens, config.seed), first_alone),
    "divprune": Method(lambda tokens, config: rivals.by_diversity(tokens), first_alone),
    "cdpruner": Method(lambda tokens, config: rivals.by_conditional_diversity(tokens), first_alone, needs=("prompt",)),
    "visionzip": Method(
        lambda tokens, config: rivals.by_attention(tokens),
        lambda tokens, order, count, config: rivals.dominant_and_contextual(tokens, order, count),
        needs=("attention",),
    ),
}


def _fault(method: Any) -> str | None:
    """What keeps an object from being a usable `Method`."""
    if not isinstance(method, Method):
        return f"it must be a rtprune.pruning.Method, got {type(method).__name__}"
    if not callable(method.order) or not callable(method.keep):
        return "its order and keep must be functions"
    cues = {field.name for field in fields(Cues)}
    if not set(method.needs) <= cues:
        return f"its needs, {method.needs!r}, must be a tuple of these cues: {', '.join(sorted(cues))}"
    return None


#: By the name that `PruneConfig.method` has.
METHODS: Registry[Method] = Registry("pruning method", "rtprune.methods", _OWN, _fault)


def register_method(name: str, method: Method) -> None:
    """Let ``PruneConfig(method=name)`` prune by ``method`` in this process.

    For every process, declare an entry point in the group ``rtprune.methods`` instead.

    Raises:
        PluginError: the name is taken, or the object is no `Method`.
    """
    METHODS.register(name, method)
