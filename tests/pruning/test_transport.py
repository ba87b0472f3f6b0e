from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtprune.pruning.transport import _scaled, enough_steps, merge, transport_plan


def test_one_kept_and_one_dropped_by_hand() -> None:
    # 2 x 2 with marginals (1, 1): the plan is [[t, 1-t], [1-t, t]] with t^2 / (1-t)^2 = e^(S + z) / e^(z + z).
    score, dustbin = 0.7, 0.2
    odds = math.sqrt(math.exp(score + dustbin - 2 * dustbin))
    plan = transport_plan(torch.tensor([[score]], dtype=torch.float64), dustbin, 1.0)
    assert float(plan) == pytest.approx(odds / (1 + odds), abs=1e-9)


def test_equal_scores_share_the_mass_evenly() -> None:
    # With every score equal to the dustbin's the plan is the product of the marginals over the total mass 2 + 3.
    plan = transport_plan(torch.full((2, 3), 0.2), 0.2, 1.0)
    assert plan.tolist() == [[pytest.approx(1 / 5)] * 3] * 2


def test_no_token_gives_or_takes_more_than_itself() -> None:
    scores = torch.rand(40, 9, generator=torch.Generator().manual_seed(1)) * 2 - 1
    plan = transport_plan(scores, 0.2, 1.0)
    assert bool((plan > 0).all())
    assert float(plan.sum(0).max()) < 1
    assert float(plan.sum(1).max()) < 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (300, 100)])
@pytest.mark.parametrize("extreme", [-1.0, 1.0])
def test_the_solver_converges_at_the_ends_of_the_scores(shape: tuple[int, int], extreme: float) -> None:
    scores = torch.full(shape, extreme)
    scores[0, 0] = -extreme
    assert bool(transport_plan(scores, 0.2, 1.0).isfinite().all())


@pytest.mark.filterwarnings("ignore:Sinkhorn did not converge")
@settings(max_examples=80, deadline=None)
@given(
    kept=st.integers(1, 60),
    dropped=st.integers(1, 60),
    dustbin=st.floats(-2, 2),
    regularisation=st.sampled_from([0.02, 0.25, 1.0, 10.0]),
    seed=st.integers(0, 2**31),
)
def test_both_solvers_agree(kept: int, dropped: int, dustbin: float, regularisation: float, seed: int) -> None:
    scores = torch.rand(kept, dropped, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    ours = transport_plan(scores, dustbin, regularisation)
    reference = transport_plan(scores, dustbin, regularisation, "pot")
    assert ours.dtype == reference.dtype == torch.float64
    assert float((ours - reference).abs().max()) < 1e-6


@pytest.mark.parametrize("kind", ["random", "ends"])
@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0])
def test_the_steps_taken_without_looking_are_enough(spread: float, kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    shares = torch.rand(50, 20, dtype=torch.float64, generator=generator)
    kernel = torch.exp(-spread * (shares.round() if kind == "ends" else shares))
    plan = _scaled(kernel, math.exp(-0.4 * spread), enough_steps(spread), watch=False)
    exact = _scaled(kernel, math.exp(-0.4 * spread), 2000, watch=False)
    assert float((plan - exact).abs().max()) < 1e-8


def test_merging_adds_the_transported_share() -> None:
    kept, dropped = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16)
    share = math.exp(-0.1) / (1 + math.exp(-0.1))  # score 0 against dustbin 0.2
    merged = merge(kept, dropped, torch.zeros(1, 1), 0.2, 1.0, 0.1)
    assert merged.dtype == torch.float32
    assert merged.tolist() == [pytest.approx([2.0, 0.1 * share])]
