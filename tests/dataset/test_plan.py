"""Units have the same ids everywhere, and hold every page once."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtprune.dataset import DocumentRow, plan_units
from tests.dataset.samples import document

page_counts = st.lists(st.integers(1, 40), max_size=12)


def test_unit_ids_are_those_that_any_other_machine_computes() -> None:
    units = plan_units([document("a", 3), document("b", 70), document("c", 1)], "0123456789abcdef", 32)
    assert [unit.page_count for unit in units] == [3, 32, 32, 7]
    assert [unit.unit_id for unit in units] == [
        "c76903136ce6e35436eeab8e",
        "ee93c1acaad22fe96b3fe070",
        "6419ec7a629bdfd3d9e0d4c7",
        "fe6e2593d8112c9bafc36894",
    ]


@settings(max_examples=60, deadline=None)
@given(page_counts, st.integers(1, 16), st.randoms(use_true_random=False))
def test_units_do_not_depend_on_the_order_of_documents(
    counts: list[int], unit_pages: int, shuffler: random.Random
) -> None:
    documents = [document(f"{number:02d}", count) for number, count in enumerate(counts)]
    shuffled = documents.copy()
    shuffler.shuffle(shuffled)
    assert plan_units(shuffled, "c", unit_pages) == plan_units(documents, "c", unit_pages)


@settings(max_examples=60, deadline=None)
@given(page_counts, st.integers(1, 16))
def test_units_hold_every_page_once_and_never_too_many(counts: list[int], unit_pages: int) -> None:
    documents = [document(f"{number:02d}", count) for number, count in enumerate(counts)]
    units = plan_units(documents, "c", unit_pages)
    assert Counter(page for unit in units for page in unit.pages()) == Counter(
        (row.doc_id, page) for row in documents for page in range(1, (row.pages or 0) + 1)
    )
    assert all(1 <= unit.page_count <= unit_pages for unit in units)
    assert len({unit.unit_id for unit in units}) == len(units)


def test_a_document_that_fits_into_a_unit_is_not_divided() -> None:
    units = plan_units([document("a", 5), document("b", 6), document("c", 2)], "c", 8)
    assert [[piece.uri for piece in unit.slices] for unit in units] == [
        ["s3://in/a.pdf"],
        ["s3://in/b.pdf", "s3://in/c.pdf"],
    ]


def test_another_configuration_means_other_unit_ids() -> None:
    one, other = (plan_units([document("a")], config_hash, 8) for config_hash in ("c", "d"))
    assert one[0].slices == other[0].slices
    assert one[0].unit_id != other[0].unit_id


def test_unit_ids_follow_the_bytes_not_the_place() -> None:
    here = document("a", 2)
    there = replace(here, uri="/mnt/copy/a.pdf")
    assert plan_units([here], "c", 8)[0].unit_id == plan_units([there], "c", 8)[0].unit_id


def test_the_same_bytes_are_planned_once_under_the_first_uri() -> None:
    units = plan_units([document("z", 2, content="same"), document("a", 2, content="same")], "c", 8)
    assert [piece.uri for unit in units for piece in unit.slices] == ["s3://in/a.pdf"]


@pytest.mark.parametrize("bad", [replace(document("a"), pages=0), replace(document("a"), doc_id=None)])
def test_a_good_document_without_pages_or_identity_is_refused(bad: DocumentRow) -> None:
    with pytest.raises(ValueError, match=r"a\.pdf"):
        plan_units([bad], "c", 8)


def test_units_must_hold_at_least_one_page() -> None:
    with pytest.raises(ValueError, match="unit_pages"):
        plan_units([], "c", 0)
