"""SAM's attention with relative positions as plain attention over wider tokens.

SAM adds to a query's score with a key what the query says of the key's row and of its column (MViTv2, arXiv 2112.01526,
section 4.1). Written out, that is a number for each pair of patches and each head: a gigabyte a page and layer at 1280
pixels. The same sum is a product of wider vectors, as only one row and one column count for each key:

    scale q.k + r(q)[row of k] + c(q)[column of k]  =  [scale q, r(q), c(q)] . [k, 1 at its row, 1 at its column]

so that a fused kernel computes it with nothing written out.
"""

from __future__ import annotations

from functools import lru_cache
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MULTIPLE = 8  # of which fused kernels take a token's width


def without_bias(network: nn.Module) -> None:
    """Let every attention of SAM in ``network``, this one object, compute its relative positions as above."""
    for module in network.modules():
        if all(hasattr(module, name) for name in ("rel_pos_h", "rel_pos_w", "qkv", "proj", "get_rel_pos")):
            module.forward = MethodType(attend, module)


def attend(module: Any, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, None]:
    """What transformers' attention of SAM gives for ``hidden_states`` [B, H, W, C]."""
    batch, height, width, _ = hidden_states.shape
    heads, patches = module.num_attention_heads, height * width
    qkv = module.qkv(hidden_states).reshape(batch, patches, 3, heads, -1).permute(2, 0, 3, 1, 4)
    queries, keys, values = qkv.unbind(0)  # [B, heads, patches, size]
    size = queries.shape[-1]
    by_row, by_column, places = _tables(module, height, width)
    grid = queries.reshape(batch, heads, height, width, size)
    rows = torch.einsum("bnhwc,hkc->bnhwk", grid, by_row).reshape(batch, heads, patches, height)
    columns = torch.einsum("bnhwc,wkc->bnhwk", grid, by_column).reshape(batch, heads, patches, width)
    missing = -(size + height + width) % _MULTIPLE
    wide_queries = F.pad(torch.cat([queries * module.scale, rows, columns], dim=-1), (0, missing))
    wide_keys = torch.cat([keys, places.expand(batch, heads, -1, -1)], dim=-1)
    wide_values = F.pad(values, (0, wide_keys.shape[-1] - size))
    seen = F.scaled_dot_product_attention(wide_queries, wide_keys, wide_values, scale=1.0)[..., :size]
    return module.proj(seen.transpose(1, 2).reshape(batch, height, width, -1)), None


def _tables(module: Any, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of rows [H, H, size] and of columns [W, W, size], and where each key stands; made once for a size."""
    made: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = module.__dict__.setdefault("_rtprune_tables", {})
    if (height, width) not in made:
        by_row = module.get_rel_pos(height, height, module.rel_pos_h)
        by_column = module.get_rel_pos(width, width, module.rel_pos_w)
        size, like = by_row.shape[-1], by_row
        made[height, width] = by_row, by_column, _places(height, width, size, like.device, like.dtype)
    return made[height, width]


@lru_cache(maxsize=16)
def _places(height: int, width: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[H * W, H + W and padding]: a one at each patch's row, and one at its column."""
    patches = torch.arange(height * width, device=device)
    missing = -(size + height + width) % _MULTIPLE
    places = torch.zeros(height * width, height + width + missing, dtype=dtype, device=device)
    ones = torch.ones((), dtype=dtype, device=device)
    places[patches, patches // width] = ones
    places[patches, height + patches % width] = ones
    return places
