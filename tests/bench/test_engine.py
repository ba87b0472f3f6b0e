"""`rtprune bench engine` measures every way of reading, and says what it did not measure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from rtprune.bench import engine as engine_module
from rtprune.bench import random_model as random_model_module
from rtprune.bench.engine import bench_engine, by_generate, report
from rtprune.bench.pages import drawn_pages
from rtprune.bench.random_model import random_model
from rtprune.cli import main
from rtprune.engine import Engine
from rtprune.engine.result import PageResult
from rtprune.errors import RTPruneError, UsageError
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.settings import ReadSettings
from tests.bench.sizes import small_config


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The command sets how many threads compute; other tests have theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> DeepSeekOcr:
    return random_model(small_config(), device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def found(model: DeepSeekOcr) -> dict[str, Any]:
    """Six pages through a small random model whose answers never end."""
    return bench_engine(model, pages=6, repeats=1, slots=3, mode="tiny", output_tokens=8, bandwidth_gb_s=10.0)


@pytest.mark.slow
def test_every_way_of_reading_is_measured_and_gives_the_same_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shortest = sorted(drawn_pages(16, built_in=True), key=lambda page: len(page.text_layer))[:2]
    monkeypatch.setattr(engine_module, "drawn_pages", lambda count, built_in: shortest[:count] if built_in else [])
    arguments = ["--pages", "2", "--repeats", "1", "--slots", "2", "--threads", "1", "--json"]
    assert main(["bench", "engine", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["pages"], found["slots"]) == ("mini", 2, 2)
    assert (found["mode"], found["dtype"], found["output_tokens"]) == ("tiny", "float32", 512)
    assert found["bandwidth_measured"]
    assert found["bandwidth_gb_s"] > 0.1
    assert list(found["ways"]) == ["unpruned", "dynamic"]
    for ways in found["ways"].values():
        assert len(ways) == 5
        assert all(cost["equal_text"] == 1.0 for cost in ways.values())
        assert all(cost["pages_per_s"] > 0 for cost in ways.values())
        plain, guided = ways["engine"], ways["engine, with text layers"]
        assert guided["decode_steps"] < plain["decode_steps"] / 2.5
        assert sum(plain["time_share"].values()) == pytest.approx(1, abs=0.01)
    assert not any("text:" in line for line in found["not_measured"])


def test_differences_of_bfloat16_are_counted_against_float32(model: DeepSeekOcr) -> None:
    low = random_model(small_config(), device=model.device, dtype=torch.bfloat16)
    found = bench_engine(
        low, pages=2, repeats=1, slots=2, mode="tiny", output_tokens=8, bandwidth_gb_s=10.0, reference=model
    )
    for ways in found["ways"].values():
        assert all(0 <= cost["equal_float32"] <= 1 for cost in ways.values())
    assert not any("float32" in line for line in found["not_measured"])
    assert "as float32" in report(found)


def test_texts_that_differ_from_the_references_are_counted(model: DeepSeekOcr) -> None:
    found = bench_engine(
        model, pages=2, repeats=1, slots=2, mode="tiny", output_tokens=4, bandwidth_gb_s=10.0, reference=_other(model)
    )
    costs = found["ways"]["unpruned"].values()
    assert [cost["equal_text"] for cost in costs] == [1.0] * 3
    assert [cost["equal_float32"] for cost in costs] == [0.0] * 3


def test_answers_without_end_are_read_without_guesses_and_few_by_generate(found: dict[str, Any]) -> None:
    for ways in found["ways"].values():
        pages = {name: cost["pages"] for name, cost in ways.items()}
        assert pages == {"generate, page by page": 4, "generate, batches of 8": 6, "engine": 6}
        assert all(cost["decode_steps"] == 8 * cost["pages"] for cost in ways.values())
        assert all(cost["equal_text"] == 1.0 and cost["equal_float32"] is None for cost in ways.values())
    assert [line.split(":")[0] for line in found["not_measured"]] == ["a GPU", "text", "guessing"]


def test_the_time_split_names_every_stage_from_rendering_on(found: dict[str, Any]) -> None:
    cost = found["ways"]["dynamic"]["engine"]
    assert list(cost["ms_per_page"]) == ["render", "encode", "prune", "prefill", "decode"]
    assert all(spent > 0 for spent in cost["ms_per_page"].values())
    assert sum(cost["time_share"].values()) == pytest.approx(1, abs=0.01)
    assert found["ways"]["dynamic"]["generate, page by page"]["ms_per_page"] is None


def test_prefill_steps_and_flops_fit_the_pages(found: dict[str, Any]) -> None:
    prefill, step = found["prefill"], found["decode_step"]["unpruned"]
    assert (prefill["pages"], prefill["tokens_unpruned"]) == (3, 73)
    assert prefill["tokens_pruned"] < 73
    assert prefill["gain"] == pytest.approx(prefill["unpruned"]["median"] / prefill["pruned"]["median"], rel=0.05)
    assert step["pages"] == 3
    assert 73 < step["tokens_held"] < 73 + 30
    assert step["bound_ms"] == pytest.approx(step["read_mb"] / 10.0, abs=1e-4)
    assert step["over_bound"] == pytest.approx(step["step"]["median"] / step["bound_ms"], rel=0.05)
    flops = found["gflops_per_page"]
    assert flops["dynamic"]["prefill"] < flops["unpruned"]["prefill"]
    assert flops["dynamic"]["encode"] == flops["unpruned"]["encode"]


def test_the_table_says_where_it_was_measured_and_what_was_not(found: dict[str, Any]) -> None:
    lines = report(found).splitlines()
    assert lines[0].startswith("random on cpu, float32, mode tiny, ")
    assert sum(line.startswith("prefill incl. pruning: unpruned ") for line in lines) == 1
    assert sum("at 10.0 GB/s (as given)" in line for line in lines) == 2
    assert sum(line.startswith("not measured: ") for line in lines) == 3
    unknown = {pruning: cost | {"bound_ms": None} for pruning, cost in found["decode_step"].items()}
    assert "GB/s" not in report(found | {"decode_step": unknown})
    assert "pages ended at once" in report(found | {"decode_step": {"unpruned": None}})


def test_the_command_takes_a_random_model_of_any_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(random_model_module, "FULL_SIZE", small_config())
    arguments = ["--mode", "tiny", "--dtype", "bfloat16", "--output-tokens", "3", "--bandwidth-gb-s", "7.5", "--json"]
    counts = ["--pages", "2", "--slots", "1", "--repeats", "1", "--threads", "1"]
    assert main(["bench", "engine", "--model", "random", *arguments, *counts]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["dtype"], found["output_tokens"]) == ("random", "bfloat16", 3)
    assert (found["bandwidth_gb_s"], found["bandwidth_measured"]) == (7.5, False)
    assert main(["bench", "prune", "--model", "random", "--repeats", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7


def test_a_page_that_is_not_read_ends_the_measurement(model: DeepSeekOcr, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Engine.read
    monkeypatch.setattr(Engine, "read", lambda *given: [replace(read(*given)[0], status="failed", message="gone")])
    with pytest.raises(RTPruneError, match=r"engine: drawn page 1 was not read: gone"):
        bench_engine(model, pages=1, repeats=1, slots=1, mode="tiny", output_tokens=3, bandwidth_gb_s=1.0)


def test_generate_gives_the_engines_tokens_up_to_the_limit(model: DeepSeekOcr) -> None:
    pictures = [page.picture for page in drawn_pages(3, built_in=False)]
    engine = Engine(model, ReadSettings(mode="tiny", task="text", max_output_tokens=6), slots=3, guess=False)
    ours: list[PageResult] = engine.read(pictures)
    theirs = by_generate(engine, pictures, 2, 6)
    assert [page.output_tokens for page in theirs] == [6, 6, 6]
    assert [page.text for page in theirs] == [page.text for page in ours]


@pytest.mark.parametrize("flag", ["--pages", "--slots", "--repeats", "--threads", "--output-tokens"])
def test_counts_below_one_are_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "engine", flag, "0"]) == 2
    assert f"{flag} must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("bandwidth", ["0", "-3", "nan", "inf"])
def test_a_bandwidth_that_is_none_is_refused(bandwidth: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "engine", f"--bandwidth-gb-s={bandwidth}"]) == 2
    assert "--bandwidth-gb-s must be a number above 0" in capsys.readouterr().err


def test_a_mode_the_model_lacks_is_refused(model: DeepSeekOcr) -> None:
    with pytest.raises(UsageError, match="has no mode 'huge'"):
        bench_engine(model, pages=1, mode="huge", bandwidth_gb_s=1.0)


def _other(model: DeepSeekOcr) -> DeepSeekOcr:
    """The same model with the vocabulary's rows turned by one, so that every token it says is another."""
    other = random_model(small_config(), device=model.device, dtype=model.dtype)
    with torch.no_grad():
        other.network.lm_head.weight.copy_(other.network.lm_head.weight.roll(1, dims=0))
    return other
