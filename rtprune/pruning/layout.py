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
    """What stands at each position of one image's visual sequence, in prompt order.

    Attributes:
        kinds: uint8 [L] on the CPU, the `TokenKind` of each position. Not to be written to.
        grid: (columns, rows) of the global view in patches.
        patch: side in pixels of a patch, the part of a view that one visual token stands for; the global view is
            [3, rows * patch, columns * patch].
        spatial: whether the free tokens of a view stand for its patches, row by row. If not, a token cannot be shown
            on the page.

    Raises:
        ValueError: ``kinds`` is not a non-empty vector of `TokenKind` values, or a side is below 1.
    """

    kinds: Tensor
    grid: tuple[int, int]
    patch: int = 64
    spatial: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.kinds, Tensor) or self.kinds.ndim != 1 or self.kinds.numel() == 0:
            given = tuple(self.kinds.shape) if isinstance(self.kinds, Tensor) else type(self.kinds).__name__
            raise ValueError(f"kinds must be a tensor of shape [L] with L >= 1, got {given}")
        if self.kinds.is_floating_point() or self.kinds.is_complex():
            raise ValueError(f"kinds must hold integers, got {self.kinds.dtype}")
        if not bool(((self.kinds >= min(TokenKind)) & (self.kinds <= max(TokenKind))).all()):
            accepted = ", ".join(f"{kind.value} ({kind.name.lower()})" for kind in TokenKind)
            raise ValueError(f"kinds must hold only {accepted}, got {sorted(set(self.kinds.tolist()))}")
        _require_pair("grid", self.grid)
        _require_side("patch", self.patch)
        object.__setattr__(self, "kinds", self.kinds.to(device="cpu", dtype=torch.uint8))

    @classmethod
    def plain(cls, columns: int, rows: int, patch: int) -> TokenLayout:
        """Free tokens alone, row by row, as in LightOnOCR and GLM-OCR. Length is ``columns * rows``.

        Args:
            patch: side in pixels of what one token stands for.
        """
        _require_pair("(columns, rows)", (columns, rows))
        return cls(torch.full((columns * rows,), int(TokenKind.FREE)), (columns, rows), patch)

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
            _require_pair("tiles", tiles)
            columns, rows = tiles
            kinds += ([TokenKind.FREE] * (columns * tile_grid) + [TokenKind.NEWLINE]) * (rows * tile_grid)
        kinds += ([TokenKind.FREE] * grid + [TokenKind.NEWLINE]) * grid
        kinds.append(TokenKind.SEPARATOR)
        return cls(torch.tensor(kinds, dtype=torch.uint8), (grid, grid))

    @classmethod
    def deepseek_ocr2(cls, grid: int, tiles: tuple[int, int] | None = None, tile_grid: int = 12) -> TokenLayout:
        """DeepSeek-OCR-2's layout: tile after tile, the global view, one separator. No token has a place on the page.

        Length is ``rows columns t**2 + g**2 + 1``.

        Args:
            grid: side g of the global view in tokens.
            tiles: (columns, rows) of the local tiles, or ``None`` where there are none.
            tile_grid: side t of one tile in tokens.
        """
        _require_side("grid", grid)
        _require_side("tile_grid", tile_grid)
        free = grid * grid
        if tiles is not None:
            _require_pair("tiles", tiles)
            free += tiles[0] * tiles[1] * tile_grid * tile_grid
        kinds = torch.full((free + 1,), int(TokenKind.FREE))
        kinds[-1] = int(TokenKind.SEPARATOR)
        return cls(kinds, (grid, grid), spatial=False)

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

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """Shape of the global view, [3, height, width] in pixels."""
        columns, rows = self.grid
        return 3, rows * self.patch, columns * self.patch

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenLayout):
            return NotImplemented
        return self._values == other._values and torch.equal(self.kinds, other.kinds)

    def __hash__(self) -> int:
        return hash((self._values, self.kinds.numpy().tobytes()))

    @property
    def _values(self) -> tuple[tuple[int, int], int, bool]:
        return self.grid, self.patch, self.spatial


def _require_pair(name: str, value: tuple[int, int]) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        raise ValueError(f"{name} must be (columns, rows), got {value!r}")
    _require_side(f"{name}[0] (columns)", value[0])
    _require_side(f"{name}[1] (rows)", value[1])


def _require_side(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
