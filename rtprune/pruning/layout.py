"""What the positions of one image's visual sequence are: free tokens, newlines, separator."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor


class TokenKind(IntEnum):
    """What stands at a position of the visual sequence."""

    FREE = 0
    """An embedding of image content: may be pruned."""
    NEWLINE = 1
    """The learned end of a grid row."""
    SEPARATOR = 2
    """The learned end of a view: always stays."""


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """Layout of the visual tokens of one image, in prompt order.

    Attributes:
        kinds: uint8 [L] on the CPU, the `TokenKind` of each position. Not to be written to.
        grid: side g of the global view in 64-pixel patches; the view is [3, 64 g, 64 g].

    Raises:
        ValueError: ``kinds`` is not a non-empty vector of `TokenKind` values, or ``grid`` is below 1.
    """

    kinds: Tensor
    grid: int

    def __post_init__(self) -> None:
        if not isinstance(self.kinds, Tensor) or self.kinds.ndim != 1 or self.kinds.numel() == 0:
            given = tuple(self.kinds.shape) if isinstance(self.kinds, Tensor) else type(self.kinds).__name__
            raise ValueError(f"kinds must be a tensor of shape [L] with L >= 1, got {given}")
        if self.kinds.is_floating_point() or self.kinds.is_complex():
            raise ValueError(f"kinds must hold integers, got {self.kinds.dtype}")
        if not bool(((self.kinds >= min(TokenKind)) & (self.kinds <= max(TokenKind))).all()):
            accepted = ", ".join(f"{kind.value} ({kind.name.lower()})" for kind in TokenKind)
            raise ValueError(f"kinds must hold only {accepted}, got {sorted(set(self.kinds.tolist()))}")
        _require_side("grid", self.grid)
        object.__setattr__(self, "kinds", self.kinds.to(device="cpu", dtype=torch.uint8))

    @classmethod
    def deepseek_ocr(cls, grid: int, tiles: tuple[int, int] | None = None, tile_grid: int = 10) -> TokenLayout:
        """DeepSeek-OCR's layout: the stitched tile grid, the global grid, one separator.

        Every grid row ends in a newline. Length is ``rows t (columns t + 1) + g (g + 1) + 1``.

        Args:
            grid: side g of the global view in tokens (8 tiny, 10 small, 16 base and gundam, 20 large).
            tiles: (columns, rows) of the local tiles, or ``None`` where there are none.
            tile_grid: side t of one tile in tokens.
        """
        _require_side("grid", grid)
        _require_side("tile_grid", tile_grid)
        kinds: list[int] = []
        if tiles is not None:
            if len(tiles) != 2:
                raise ValueError(f"tiles must be (columns, rows) or None, got {tiles!r}")
            columns, rows = tiles
            _require_side("tiles[0] (columns)", columns)
            _require_side("tiles[1] (rows)", rows)
            kinds += ([TokenKind.FREE] * (columns * tile_grid) + [TokenKind.NEWLINE]) * (rows * tile_grid)
        kinds += ([TokenKind.FREE] * grid + [TokenKind.NEWLINE]) * grid
        kinds.append(TokenKind.SEPARATOR)
        return cls(torch.tensor(kinds, dtype=torch.uint8), grid)

    @property
    def length(self) -> int:
        """Number L of positions: free tokens, newlines and separators together."""
        return self.kinds.numel()

    @property
    def free(self) -> Tensor:
        """bool [L]: where the free tokens are."""
        return self.kinds == TokenKind.FREE

    @property
    def newlines(self) -> Tensor:
        """bool [L]: where the newlines are."""
        return self.kinds == TokenKind.NEWLINE

    @property
    def free_count(self) -> int:
        """Number P of free tokens."""
        return int(self.free.sum())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenLayout) and self.grid == other.grid and torch.equal(self.kinds, other.kinds)

    def __hash__(self) -> int:
        return hash((self.grid, self.kinds.numpy().tobytes()))


def _require_side(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
