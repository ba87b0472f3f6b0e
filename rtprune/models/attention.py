"""How the decoder's tokens see each other: prompts packed end to end, or the next tokens of pages in their slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: Number types that the fused kernel takes.
FUSED_TYPES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class PackedPrompts:
    """Prompts of B pages, one behind the other as a single sequence; a token sees its own page's up to itself.

    Attributes:
        lengths: of each prompt, in tokens.
        starts: int32 [B + 1], where each begins, and where the last one ends.
        fused: whether one kernel reads all of them; else each is read on its own.
    """

    lengths: tuple[int, ...]
    starts: Tensor
    fused: bool

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, scale: float | None) -> Tensor:
        """[1, n, heads, width] of ``queries`` [1, heads, n, width] and the keys and values beside them."""
        if self.fused:
            longest = max(self.lengths)
            flat = queries[0].transpose(0, 1), keys[0].transpose(0, 1), values[0].transpose(0, 1)
            return _fused(flat, (self.starts, self.starts), (longest, longest), scale)[None]
        grouped = _grouped(queries, keys)
        lengths = list(self.lengths)
        pages = zip(*(torch.split(part, lengths, dim=2) for part in (queries, keys, values)), strict=True)
        seen = [
            F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)
            for query, key, value in pages
        ]
        return torch.cat(seen, dim=2).transpose(1, 2)


@dataclass(frozen=True, eq=False)
class SlottedTokens:
    """The next w tokens of R pages, each behind all that came before of its page, as a `PageCache` keeps them.

    Attributes:
        starts: int64 [R], where each page begins.
        places: int64 [R, w], how far behind it each token stands.
        mask: [R, 1, w, reach], added to the scores of attention over the first R slots of a `SlotCache`; ``None`` for
            the fused kernel over a `PooledCache`, which reads no page beyond its own length.
    """

    starts: Tensor
    places: Tensor
    mask: Tensor | None

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, scale: float | None) -> Tensor:
        """[R, w, heads, width] of ``queries`` [R, heads, w, width] and all of a layer's keys and values."""
        rows, width = self.places.shape
        if self.mask is None:
            lengths = (self.places[:, -1] + 1).int()
            each = torch.arange(0, (rows + 1) * width, width, dtype=torch.int32, device=queries.device)
            begin = torch.cat([self.starts, self.starts[:1]]).int()  # where the last one ends is not asked for
            flat = queries.transpose(1, 2).flatten(0, 1), keys, values
            seen = _fused(flat, (each, begin), (width, len(keys)), scale, lengths)
            return seen.reshape(rows, width, *seen.shape[1:])
        reach = self.mask.shape[-1]
        keys, values = (part[:rows, :reach].transpose(1, 2) for part in (keys, values))
        grouped = _grouped(queries, keys)
        seen = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=self.mask, scale=scale, enable_gqa=grouped
        )
        return seen.transpose(1, 2)


Attention = PackedPrompts | SlottedTokens


def pack(lengths: Sequence[int], device: torch.device, *, fused: bool) -> PackedPrompts:
    """Prompts of these ``lengths``."""
    starts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return PackedPrompts(tuple(lengths), starts.to(device, non_blocking=True), fused)


def slotted(
    starts: Tensor, places: Tensor, prompts: Tensor, reach: int | None, window: int | None, dtype: torch.dtype
) -> SlottedTokens:
    """Tokens at ``places`` [R, w] behind the ``starts`` [R] of their pages.

    Args:
        prompts: int64 [R, 1], length of each page's prompt, which a ``window`` does not hide.
        reach: tokens of each page that are looked at, at least all that there are; ``None`` for the fused kernel.
        window: how many of the answer's latest tokens a token sees, itself included; ``None`` for all.
        dtype: of the scores.
    """
    if reach is None:
        return SlottedTokens(starts, places, None)
    columns = torch.arange(reach, device=places.device)
    seen = columns <= places[..., None]
    if window is not None:
        seen &= (columns < prompts[..., None]) | (columns > places[..., None] - window)
    hidden = torch.zeros(seen.shape, dtype=dtype, device=places.device)
    return SlottedTokens(starts, places, hidden.masked_fill_(~seen, torch.finfo(dtype).min)[:, None])


def attend(
    module: torch.nn.Module,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    attention: Attention,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers' decoders call in the place of their own attention, when they are given an `Attention`."""
    if others.get("softcap") is not None or others.get("s_aux") is not None:
        raise NotImplementedError("attention with a soft cap or sinks is not read by this engine")
    return attention.attend(queries, keys, values, scaling), None


def _grouped(queries: Tensor, keys: Tensor) -> bool:
    """Whether several heads share keys and values."""
    return queries.shape[1] != keys.shape[1]


def _fused(
    tokens: tuple[Tensor, Tensor, Tensor],
    starts: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    scale: float | None,
    used: Tensor | None = None,
) -> Tensor:
    """Flash attention over sequences of unlike length; the last query of each sees its last key in use.

    Args:
        tokens: queries, keys and values [n, heads, width], the sequences end to end.
        starts: int32 [B + 1], where the sequences begin among the queries, and among the keys.
        longest: most queries and most keys of a sequence.
        used: int32 [B], how many keys of each sequence there are; all where it is absent.
    """
    # the operation behind `torch.nn.attention.varlen`, whose public face took ``seqused_k`` later than this did
    operation = torch.ops.aten._flash_attention_forward
    found: Tensor = operation(*tokens, *starts, *longest, 0.0, True, False, scale=scale, seqused_k=used)[0]
    return found
