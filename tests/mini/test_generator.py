"""Pages that teach and test the built-in checkpoint say truly what stands on them."""

from __future__ import annotations

import numpy as np
import pytest

from rtprune.mini.generator import PageDesign, draw_page, is_held_out, random_word, typeset


def test_the_same_seed_draws_the_same_page() -> None:
    first, second = (draw_page(np.random.default_rng(7), "training") for _ in range(2))
    assert first.text == second.text
    assert np.array_equal(first.picture, second.picture)


@pytest.mark.parametrize(("split", "held_out"), [("training", False), ("evaluation", True)])
def test_no_word_is_in_both_halves(split: str, held_out: bool) -> None:
    rng = np.random.default_rng(1)
    assert {is_held_out(random_word(rng, split)) for _ in range(300)} == {held_out}  # type: ignore[arg-type]


def test_the_split_of_a_word_does_not_depend_on_its_case_or_punctuation() -> None:
    assert is_held_out("harbour") == is_held_out('"Harbour,"') == is_held_out("HARBOUR!")


def test_pages_hold_as_many_words_as_their_design_asks_for() -> None:
    rng = np.random.default_rng(2)
    counts = [len(draw_page(rng, "evaluation", PageDesign(words=(5, 60))).text.split()) for _ in range(60)]
    assert min(counts) >= 5
    assert max(counts) <= 60
    assert max(counts) > 40


def test_a_page_is_the_view_of_mode_tiny() -> None:
    page = draw_page(np.random.default_rng(3), "training")
    assert page.picture.shape == (512, 512)
    assert len(page.centres) == len(page.text)


def test_ink_lies_around_the_recorded_middles_and_nowhere_else() -> None:
    page = typeset(["HHH", "HH"], [(20.0, 40.0), (20.0, 90.0)], "cour", 12.0)
    letters = np.array([c != "\n" for c in page.text])
    covered = np.ones_like(page.picture, bool)
    for x, y in page.centres[letters]:
        window = page.picture[int(y) - 14 : int(y) + 14, int(x) - 9 : int(x) + 9]
        assert window.min() < 100
        covered[int(y) - 14 : int(y) + 14, int(x) - 9 : int(x) + 9] = False
    assert page.picture[covered].min() > 250
