"""What the built-in checkpoint is taught: targets and losses made from the truth that drawn pages carry for free."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtprune.mini.architecture import BOS, CHARACTERS, EOS, FIRST_CHARACTER, IMAGE, PAD, PROMPT, character_ids
from rtprune.mini.generator import Page
from rtprune.pruning import TokenLayout
from rtprune.pruning.selection import survivors

PATCH, TOKEN = 16, 64  # pixels per SAM patch and per visual token
CELL_WIDTH, CELL_HEIGHT = 8, 16  # a cell holds at most one character's middle
CELLS = (TOKEN // CELL_HEIGHT) * (TOKEN // CELL_WIDTH)
BLANK_WEIGHT = 0.05  # most cells are blank; they must not drown the rest
_SPACE = CHARACTERS.index(" ")
CLASSES = len(CHARACTERS)  # class 0 (the newline's place) means blank
LINES, COUNTS = 24, 64  # more than a page and a line hold
IGNORED = -100
LENGTH_STEP = 64  # sequences are padded to multiples: a CPU kernel is compiled anew for every length
GPU_LENGTH_STEP = 128  # a step is recorded for every length


@dataclass(frozen=True)
class Batch:
    """Pages as tensors. B pages, G x G visual tokens (G = 8 at 512 px), N text tokens.

    Attributes:
        pixels: [B, S, S] uint8, grey levels; see `normalised`.
        patch_cells: [B, S/16, S/16, 2] int64, character class in the left and right half of each patch.
        token_cells: [B, G*G, 32] int64, the same classes grouped by visual token, row by row.
        text_tokens: [B, G*G] bool, tokens with a character's middle in them.
        blank_tokens: [B, G*G] bool, tokens without any ink.
        pruned: [B, G*(G+1)+1] bool, places of the image block that the decoder is not shown.
        ids: [B, n] int64, prompt and text; the image block holds the image id.
        labels: [B, n] int64, next token to predict, ignored outside the text.
        gaze: [B, n] int64, index in the image block of the token that shows the next character, or -1 for none.
        column: [B, n] int64, which of the token's 8 columns of cells the next character stands in.
        line: [B, n] int64, number of the next character's line, ignored outside the text.
        count: [B, n] int64, how many characters of its line stand before the next character.
        token_line: [B, G*G, 4] int64, number of the line in each row of a token's cells; 0 for none, else from 1.
        token_count: [B, G*G, 4] int64, number of the first character there within its line; 0 for none, else from 1.
    """

    pixels: Tensor
    patch_cells: Tensor
    token_cells: Tensor
    text_tokens: Tensor
    blank_tokens: Tensor
    pruned: Tensor
    ids: Tensor
    labels: Tensor
    gaze: Tensor
    column: Tensor
    line: Tensor
    count: Tensor
    token_line: Tensor
    token_count: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on ``device``."""
        moved = {name: value.to(device, non_blocking=True) for name, value in vars(self).items()}
        return Batch(**moved)

    def pin_memory(self) -> Batch:
        """The same where a GPU fetches it from, as a loader of pages asks for it."""
        return Batch(**{name: value.pin_memory() for name, value in vars(self).items()})

    @property
    def normalised(self) -> Tensor:
        """float32 [B, 3, S, S], the pixels in [-1, 1] as the encoder takes them."""
        return ((self.pixels.float() / 255 - 0.5) / 0.5)[:, None].expand(-1, 3, -1, -1)


def make_batch(
    pages: list[Page],
    rng: np.random.Generator,
    noise: float = 0.0,
    pruned_share: float = 0.0,
    length_step: int = LENGTH_STEP,
) -> Batch:
    """Tensors of ``pages``; sequences are padded to multiples of ``length_step``.

    A share ``noise`` of the text's input characters is replaced at random, which teaches the decoder to keep its place
    after a misread character. A share ``pruned_share`` of the pages loses some of its blank tokens at random, and with
    them newlines as in pruning, which teaches it not to count on them.
    """
    side = pages[0].picture.shape[0]
    grid = side // TOKEN
    pictures = np.stack([page.picture for page in pages])
    cells = np.stack([_cells(page, side) for page in pages])
    as_tokens = cells.reshape(len(pages), grid, TOKEN // CELL_HEIGHT, grid, TOKEN // CELL_WIDTH)
    as_tokens = as_tokens.transpose(0, 1, 3, 2, 4).reshape(len(pages), grid * grid, CELLS)
    ink = pictures.reshape(len(pages), grid, TOKEN, grid, TOKEN).min(axis=(2, 4)).reshape(len(pages), -1) < 250
    ids, labels, gaze, column, line, count = _sequences(pages, grid, rng, noise, length_step)
    pruned = _prune_blanks(torch.from_numpy(ink), grid, rng, pruned_share)
    gaze[pruned.gather(1, gaze.clamp(min=0))] = -1
    lines, counts = zip(*(_numbering(page, grid) for page in pages), strict=True)
    return Batch(
        pixels=torch.from_numpy(pictures),
        patch_cells=torch.from_numpy(cells.reshape(len(pages), side // PATCH, side // PATCH, 2)),
        token_cells=torch.from_numpy(as_tokens),
        text_tokens=torch.from_numpy((as_tokens > 0).any(-1)),
        blank_tokens=torch.from_numpy(~ink),
        pruned=pruned,
        ids=ids,
        labels=labels,
        gaze=gaze,
        column=column,
        line=line,
        count=count,
        token_line=torch.from_numpy(np.stack(lines)),
        token_count=torch.from_numpy(np.stack(counts)),
    )


def _prune_blanks(ink: Tensor, grid: int, rng: np.random.Generator, share: float) -> Tensor:
    """bool [B, G*(G+1)+1]: places of the image block that go when a random part of the tokens without ``ink`` does."""
    kinds = TokenLayout.deepseek_ocr(grid).kinds
    pruned = torch.zeros(len(ink), len(kinds), dtype=torch.bool)
    for page in range(len(ink)):
        if rng.random() < share:
            lucky = torch.from_numpy(rng.random(grid * grid) >= rng.random())
            pruned[page] = True
            pruned[page, survivors(kinds, ink[page] | lucky)] = False
    return pruned


def _cells(page: Page, side: int) -> np.ndarray:
    """int64 [S/16, S/8]: the character whose middle each cell holds, the last one where there are several."""
    cells = np.zeros((side // CELL_HEIGHT, side // CELL_WIDTH), np.int64)
    classes = np.array(character_ids(page.text), np.int64) - FIRST_CHARACTER
    column, row = (page.centres // (CELL_WIDTH, CELL_HEIGHT)).astype(np.int64).T
    seen = (classes > 0) & (classes != _SPACE) & (row >= 0) & (row < len(cells)) & (column >= 0)
    seen &= column < cells.shape[1]
    cells[row[seen], column[seen]] = classes[seen]
    return cells


def _sequences(
    pages: list[Page], grid: int, rng: np.random.Generator, noise: float, length_step: int
) -> tuple[Tensor, ...]:
    block = grid * (grid + 1) + 1
    head = [BOS, *[IMAGE] * block, *character_ids(PROMPT)]
    longest = len(head) + max(len(page.text) for page in pages)
    longest += -longest % length_step
    ids = np.full((len(pages), longest), PAD, np.int64)
    labels = np.full((len(pages), longest), IGNORED, np.int64)
    gaze = np.full((len(pages), longest), -1, np.int64)
    column = np.zeros((len(pages), longest), np.int64)
    line, count = (np.full((len(pages), longest), IGNORED, np.int64) for _ in range(2))
    first = len(head) - 1  # the prompt's last token predicts the first character
    for row, page in enumerate(pages):
        text = np.array(character_ids(page.text), np.int64)
        shown = text.copy()
        wrong = rng.random(len(text)) < noise
        shown[wrong] = rng.integers(text.min(), text.max() + 1, size=int(wrong.sum()))
        ids[row, : len(head)] = head
        ids[row, len(head) : len(head) + len(text)] = shown
        labels[row, first : first + len(text) + 1] = [*text, EOS]
        columns = np.clip(page.centres[:, 0] // TOKEN, 0, grid - 1).astype(np.int64)
        rows = np.clip(page.centres[:, 1] // TOKEN, 0, grid - 1).astype(np.int64)
        gaze[row, first : first + len(text)] = rows * (grid + 1) + columns
        column[row, first : first + len(text)] = page.centres[:, 0] // CELL_WIDTH % (TOKEN // CELL_WIDTH)
        line[row, first : first + len(text)], count[row, first : first + len(text)] = _line_and_count(page)
    return tuple(torch.from_numpy(array) for array in (ids, labels, gaze, column, line, count))


def _line_and_count(page: Page) -> tuple[np.ndarray, np.ndarray]:
    """Of each character: the number of its line, and how many of that line stand before it."""
    lines = page.text.split("\n")
    counts = np.concatenate([np.arange(len(line) + 1) for line in lines])[:-1]
    return np.repeat(np.arange(len(lines)), [len(line) + 1 for line in lines])[:-1], np.minimum(counts, COUNTS - 2)


def _numbering(page: Page, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of the line, and of its first character, in each row of cells of each token; 0 for none."""
    lines, counts = (np.zeros((grid * grid, TOKEN // CELL_HEIGHT), np.int64) for _ in range(2))
    line, count = _line_and_count(page)
    column, row = (page.centres // TOKEN).astype(np.int64).T
    shown = np.array([character != "\n" for character in page.text]) & (row < grid) & (column < grid)
    first = shown.nonzero()[0][::-1]  # of several characters in one place the first is to be left there
    place = (row * grid + column)[first], (page.centres[first, 1] % TOKEN // CELL_HEIGHT).astype(np.int64)
    lines[place], counts[place] = line[first] + 1, count[first] + 1
    return lines, counts


class CellHeads(nn.Module):
    """Throw-away linear heads that name the characters in a patch and in a visual token; never shipped."""

    def __init__(self, patch_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.patch = nn.Linear(patch_channels, 2 * CLASSES)
        self.token = nn.Linear(hidden_size, CELLS * CLASSES)

    def forward(self, patches: Tensor, tokens: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of the patch head and the token head, and the share of character cells the token head names.

        Args:
            patches: [B, C, S/16, S/16], the SAM neck's output.
            tokens: [B, G*G, D], visual tokens.
            batch: what the cells hold.
        """
        by_patch = self.patch(patches.permute(0, 2, 3, 1)).reshape(-1, CLASSES).float()
        by_token = self.token(tokens).reshape(-1, CLASSES).float()
        truth = batch.token_cells.reshape(-1)
        weight = torch.ones(CLASSES, device=truth.device)
        weight[:1] = BLANK_WEIGHT
        patch_loss = F.cross_entropy(by_patch, batch.patch_cells.reshape(-1), weight)
        token_loss = F.cross_entropy(by_token, truth, weight)
        named = ((by_token.argmax(-1) == truth) & (truth > 0)).sum() / (truth > 0).sum().clamp(min=1)
        return patch_loss, token_loss, named


class CountingHeads(nn.Module):
    """Throw-away linear heads that number lines and characters, in the picture and in what is written; never shipped.

    With them the decoder finds the next character by its number, however alike two places of a page look.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        rows = TOKEN // CELL_HEIGHT
        self.seen = nn.Linear(hidden_size, rows * (LINES + COUNTS))
        self.told = nn.Linear(hidden_size, LINES + COUNTS)

    def forward(self, tokens: Tensor, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses of numbering what is seen and what is told.

        Args:
            tokens: [B, G*G, D], visual tokens.
            hidden: [B, n, D], the decoder's hidden states where it begins to look for the next character.
            batch: the numbers.
        """
        seen = self.seen(tokens).float().view(*batch.token_line.shape, LINES + COUNTS)
        told = self.told(hidden).float()
        return (
            _numbers_loss(seen, batch.token_line, batch.token_count),
            _numbers_loss(told, batch.line, batch.count),
        )


def _numbers_loss(scores: Tensor, lines: Tensor, counts: Tensor) -> Tensor:
    line = F.cross_entropy(scores[..., :LINES].flatten(0, -2), lines.flatten(), ignore_index=IGNORED)
    count = F.cross_entropy(scores[..., LINES:].flatten(0, -2), counts.flatten(), ignore_index=IGNORED)
    return line + count


def premise_loss(tokens: Tensor, batch: Batch) -> Tensor:
    """What makes RTPrune's premise true of a model: blank tokens small and alike, text tokens large and apart.

    Args:
        tokens: [B, G*G, D], visual tokens.
    """
    tokens = tokens.float()
    norm = tokens.norm(dim=-1) / math.sqrt(tokens.shape[-1])
    text, blank = batch.text_tokens.float(), batch.blank_tokens.float()
    size = (F.relu(norm - 0.25) ** 2 * blank).sum() / blank.sum().clamp(min=1)
    size = size + (F.relu(0.9 - norm) ** 2 * text).sum() / text.sum().clamp(min=1)
    unit = F.normalize(tokens, dim=-1, eps=1e-4)
    alike = torch.einsum("bid,bjd->bij", unit, unit) ** 2
    off = 1 - torch.eye(tokens.shape[1], device=tokens.device)
    pairs = torch.einsum("bi,bj->bij", text, text + 2 * blank) * off
    apart = (alike * pairs).sum() / pairs.sum().clamp(min=1)
    blanks = torch.einsum("bi,bj->bij", blank, blank) * off
    together = ((1 - alike) * blanks).sum() / blanks.sum().clamp(min=1)
    return size + apart + 0.2 * together


def gaze_loss(queries: Tensor, keys: Tensor, batch: Batch) -> Tensor:
    """How far a layer is from looking at the next character, one head for each of a token's 8 columns.

    The head of the character's column shall look at its token, the others at the first token of all: so the heads
    together pick one column of what the token shows. Cross entropy over these places alone: how much to look at text
    instead is left to the heads.

    Args:
        queries: [B, 8, n, d], one decoder layer's queries after rotation.
        keys: [B, 8, n, d], its keys after rotation.
    """
    places = 1 + batch.pruned.shape[1]
    scores = torch.einsum("bhnd,bhkd->bhnk", queries, keys[:, :, :places]).float() / math.sqrt(queries.shape[-1])
    heads = torch.arange(queries.shape[1], device=queries.device)[None, :, None]
    chosen = heads == batch.column[:, None]
    target = torch.where(chosen, batch.gaze[:, None] + 1, 0)
    loss = F.cross_entropy(scores.flatten(0, 2), target.flatten(), reduction="none").view(target.shape)
    known = (batch.gaze >= 0)[:, None]
    weight = (chosen & known) + 0.1 * (~chosen & known)
    return (loss * weight).sum() / known.sum().clamp(min=1)


def place_loss(queries: Tensor, keys: Tensor, batch: Batch) -> Tensor:
    """How far the first half of a layer's heads is from looking at the token that shows the present character.

    Arguments as of `gaze_loss`.
    """
    half = queries.shape[1] // 2
    block = batch.pruned.shape[1]
    image_keys = keys[:, :half, 1 : 1 + block]
    scores = torch.einsum("bhnd,bhkd->bhnk", queries[:, :half, 1:], image_keys).float() / math.sqrt(queries.shape[-1])
    target = batch.gaze[:, None, :-1].expand(-1, half, -1)
    return F.cross_entropy(scores.flatten(0, 2), target.flatten(), ignore_index=-1)
