"""Drawn pages come out of a PDF document as what they were drawn as."""

from __future__ import annotations

import numpy as np

from rtprune.bench.pages import SEED, drawn_pages
from rtprune.mini.generator import draw_page


def test_the_built_in_models_pages_are_those_it_was_made_for() -> None:
    rng = np.random.default_rng(SEED)
    for found in drawn_pages(5, built_in=True):
        drawn = draw_page(rng, "evaluation")
        assert np.array_equal(np.asarray(found.picture.convert("L")), drawn.picture)
        assert found.text_layer.rstrip("\n") == drawn.text
        assert found.render_ms > 0


def test_other_pages_are_print_of_unlike_length_and_stay_what_they_are() -> None:
    found = drawn_pages(6, built_in=False)
    assert {page.picture.size for page in found} == {(1190, 1684)}
    lengths = [len(page.text_layer) for page in found]
    assert min(lengths) > 1000
    assert max(lengths) > 1.5 * min(lengths)
    assert [page.text_layer for page in drawn_pages(3, built_in=False)] == [page.text_layer for page in found[:3]]
