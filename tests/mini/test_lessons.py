"""Targets of the lessons, worked by hand on one small line of text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rtprune.mini.architecture import BOS, CHARACTERS, EOS, IMAGE, PROMPT, character_ids
from rtprune.mini.generator import typeset
from rtprune.mini.lessons import IGNORED, Batch, gaze_loss, make_batch, premise_loss

BLOCK = 8 * 9 + 1
FIRST = 1 + BLOCK + len(PROMPT)  # position of the first character of the text


@pytest.fixture(scope="module")
def batch() -> Batch:
    # Courier's advance is 0.6 em: at 40/3 points, 144 dpi, 16 pixels. The first middle is at x = 72, y = 136 - 8 = 128.
    page = typeset(["ab c", "d"], [(32.0, 68.0), (32.0, 84.0)], "cour", 40 / 3)
    assert np.allclose(page.centres[0], [72.0, 128.0], atol=0.1)
    return make_batch([page], np.random.default_rng(0))


def test_cells_name_the_character_whose_middle_they_hold(batch: Batch) -> None:
    # row 1 of tokens would be pixels 64..127; y = 128 is row 2; x = 72 is token column 1, cell column 1
    cells = batch.token_cells.view(1, 8, 8, 4, 8)
    assert cells[0, 2, 1, 0, 1] == CHARACTERS.index("a")
    assert cells[0, 2, 1, 0, 3] == CHARACTERS.index("b")
    assert cells[0, 2, 1, 0, 7] == CHARACTERS.index("c")
    assert cells[0, 2, 1, 2, 1] == CHARACTERS.index("d")
    assert (cells > 0).sum() == 4
    assert batch.patch_cells.shape == (1, 32, 32, 2)
    assert (batch.patch_cells > 0).sum() == 4


def test_only_tokens_with_ink_are_not_blank(batch: Batch) -> None:
    assert batch.text_tokens.sum() == 1
    assert batch.text_tokens[0, 2 * 8 + 1]
    assert not (batch.text_tokens & batch.blank_tokens).any()


def test_labels_are_the_text_and_its_end_one_step_ahead(batch: Batch) -> None:
    assert batch.ids[0, 0] == BOS
    assert (batch.ids[0, 1 : 1 + BLOCK] == IMAGE).all()
    told = batch.labels[0][batch.labels[0] != IGNORED].tolist()
    assert told == [*character_ids("ab c\nd"), EOS]
    assert batch.labels[0, FIRST - 1] == character_ids("a")[0]
    assert batch.ids[0, FIRST] == character_ids("a")[0]


def test_the_gaze_goes_to_the_token_and_column_of_the_next_character(batch: Batch) -> None:
    assert batch.gaze[0, FIRST - 1] == 2 * 9 + 1  # rows of the image block are nine long, a newline behind each
    assert batch.column[0, FIRST - 1 : FIRST + 1].tolist() == [1, 3]
    assert (batch.gaze >= 0).sum() == len("ab c\nd")


def test_lines_and_characters_are_numbered_as_they_are_written(batch: Batch) -> None:
    told = slice(FIRST - 1, FIRST - 1 + len("ab c\nd"))
    assert batch.line[0, told].tolist() == [0, 0, 0, 0, 0, 1]
    assert batch.count[0, told].tolist() == [0, 1, 2, 3, 4, 0]
    assert batch.line[0, FIRST + len("ab c\nd") - 1] == IGNORED


def test_a_token_carries_the_numbers_of_what_it_shows(batch: Batch) -> None:
    assert batch.token_line[0, 2 * 8 + 1].tolist() == [1, 0, 2, 0]
    assert batch.token_count[0, 2 * 8 + 1].tolist() == [1, 0, 1, 0]
    assert (batch.token_line > 0).sum() == 2


def test_gaze_loss_vanishes_when_every_head_looks_where_it_should(batch: Batch) -> None:
    n = batch.ids.shape[1]
    keys = torch.eye(n).expand(1, 8, n, n) * 100.0
    target = torch.where(torch.arange(8)[None, :, None] == batch.column[:, None], batch.gaze[:, None] + 1, 0)
    queries = torch.nn.functional.one_hot(target.clamp(min=0), n).float() * 100.0
    assert gaze_loss(queries, keys, batch) < 1e-6
    assert gaze_loss(queries.roll(1, dims=1), keys, batch) > 10.0


def test_premise_loss_is_smallest_for_small_like_blanks_and_large_orthogonal_text(batch: Batch) -> None:
    good = torch.full((1, 64, 16), 0.0)
    good[..., 0] = 0.1
    good[0, 17] = torch.nn.functional.one_hot(torch.tensor(1), 16) * 8.0
    assert premise_loss(good, batch) < 1e-6
    assert premise_loss(torch.ones(1, 64, 16), batch) > 1.0


def test_a_character_outside_the_alphabet_is_refused() -> None:
    with pytest.raises(ValueError, match="the alphabet has no 'é'"):
        character_ids("é")


def test_pruned_pages_lose_blank_tokens_alone_and_nothing_is_sought_where_nothing_is_shown() -> None:
    pages = [typeset(["ab c", "d"], [(32.0, 68.0), (32.0, 84.0)], "cour", 40 / 3)] * 8
    batch = make_batch(pages, np.random.default_rng(0), pruned_share=1.0)
    rows = batch.pruned[:, :-1].view(8, 8, 9)
    assert not batch.pruned[:, -1].any()  # the separator
    assert not (rows[..., :8].flatten(1) & ~batch.blank_tokens).any()
    assert rows[..., :8].flatten(1).sum(1).unique().numel() > 1  # each page another share
    assert (rows[..., 8] <= rows[..., :8].all(-1)).all()  # a newline goes only with its whole row
    gone = batch.pruned.gather(1, batch.gaze.clamp(min=0))
    assert not (gone & (batch.gaze >= 0)).any()
    assert not make_batch(pages, np.random.default_rng(0)).pruned.any()
