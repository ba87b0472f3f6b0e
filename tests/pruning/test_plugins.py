"""Pruning methods of other packages prune like this package's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rtprune.errors import PluginError
from rtprune.pruning import (
    METHODS,
    Method,
    PruneConfig,
    TokenLayout,
    by_score,
    first_alone,
    first_merged,
    prune,
    register_method,
)
from tests.guides import declare, follow

LAYOUT = TokenLayout.deepseek_ocr(2)  # four free tokens, two newlines, one separator
LAST = Method(lambda tokens, config: torch.arange(len(tokens.features)).flip(0), first_alone)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is registered, and installed packages are looked at anew."""
    monkeypatch.setattr(METHODS, "_registered", {})
    monkeypatch.delitem(vars(METHODS), "_declared", raising=False)


def test_a_method_registered_by_a_call_prunes() -> None:
    register_method("last", LAST)
    features = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    pruned = prune(features, LAYOUT, config=PruneConfig(ratio=0.5, method="last"))
    assert pruned.positions.tolist() == [2, 3, 4, 5, 6]
    assert torch.equal(pruned.features, features[2:])


def test_a_method_may_merge_as_the_configuration_says() -> None:
    register_method("last", Method(LAST.order, first_merged))
    features = torch.tensor([[2.0], [4.0], [0.0], [2.0], [9.0], [0.0], [0.0]])
    pruned = prune(features, LAYOUT, config=PruneConfig(ratio=0.75, method="last", merge="nearest"))
    assert pruned.positions.tolist() == [2, 4, 5, 6]
    assert pruned.features[1].tolist() == pytest.approx([(2 + 4 + 2 + 9) / 4])


def test_a_method_of_an_installed_package_prunes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_methods.py").write_text("from rtprune.pruning import METHODS\nTOY = METHODS['random']\n")
    declare(tmp_path, "toys", "[rtprune.methods]\ntoy = toy_methods:TOY\nbad = toy_methods:BAD\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_methods", raising=False)
    features = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    found, wanted = (prune(features, LAYOUT, config=PruneConfig(ratio=0.5, method=name)) for name in ("toy", "random"))
    assert torch.equal(found.features, wanted.features)
    with pytest.raises(PluginError, match=r"pruning method 'bad' of package toys 1.0 .*AttributeError"):
        PruneConfig(method="bad")  # here, not at the first page
    with pytest.raises(ValueError, match=r"method must be one of 'rtprune', .*'toy'.*, got 'other'"):
        PruneConfig(method="other")


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (by_score, "it must be a rtprune.pruning.Method, got function"),
        (Method(LAST.order, None), "its order and keep must be functions"),  # type: ignore[arg-type]
        (Method(LAST.order, first_alone, needs=("attentions",)), r"its needs, \('attentions',\), .* attention, keys, "),
    ],
)
def test_an_object_that_is_no_method_is_refused_with_its_fault(thing: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        register_method("toy", thing)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            Method(lambda tokens, config: torch.arange(3), first_alone),
            r"the method 'toy' must order all 4 free tokens, got an order of shape \[3\]",
        ),
        (
            Method(lambda tokens, config: torch.zeros(4), first_alone),
            r"the method 'toy' must keep 2 different tokens .*, got 1 tokens and features of shape \[2, 3\]",
        ),
        (
            Method(LAST.order, lambda tokens, order, count, config: (order[:count], tokens.features)),
            r"the method 'toy' must keep 2 different tokens .*, got 2 tokens and features of shape \[4, 3\]",
        ),
    ],
)
def test_a_method_that_breaks_its_promise_is_named(method: Method, message: str) -> None:
    register_method("toy", method)
    with pytest.raises(ValueError, match=message):
        prune(torch.ones(7, 3), LAYOUT, config=PruneConfig(ratio=0.5, method="toy"))


@pytest.mark.slow
def test_the_guide_s_method_prunes_and_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = follow("adding-a-method.md", tmp_path)
    assert printed.splitlines() == ["64 -> 48 free tokens", "64 -> 48 free tokens of a page"]
    monkeypatch.syspath_prepend(tmp_path / "site")
    spelled_out: Any = __import__("spelled_out").OUTLIERS
    register_method("outliers-spelled-out", spelled_out)
    features = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    found, wanted = (
        prune(features, LAYOUT, config=PruneConfig(ratio=0.5, method=name))
        for name in ("outliers-spelled-out", "outliers")
    )
    assert torch.equal(found.features, wanted.features)
