"""A step has fixed shapes and asks the device nothing; over a pool it says what it says over slots."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch._subclasses import FakeTensorMode
from transformers import UnlimitedOcrForConditionalGeneration

from rtprune.bench.random_model import FULL_SIZE, character_tokenizer
from rtprune.engine import Engine
from rtprune.engine.cache import PageCache, PooledCache, SlotCache
from rtprune.engine.decoding import Decoding, decode
from rtprune.engine.kernels import PLAIN, Kernels, prompt_difference, slot_difference
from rtprune.engine.prompts import PromptEmbeddings
from rtprune.engine.step import TOKENS, WIDTHS, Stepper, _rounded_up, step
from rtprune.models import attention
from rtprune.models.attention import PackedPrompts, pack
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.settings import ReadSettings
from tests.engine.test_decoding import random_prompt
from tests.operations import Operations

FUSED = Kernels(fused=True)


def flash(
    tokens: tuple[Tensor, Tensor, Tensor],
    starts: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    scale: float | None,
    used: Tensor | None = None,
) -> Tensor:
    """What the fused kernel is to compute, page by page and score by score."""
    queries, keys, values = tokens
    seen = []
    for page in range(len(starts[0]) - 1):
        begin, end = int(starts[0][page]), int(starts[0][page + 1])
        first = int(starts[1][page])
        count = int(starts[1][page + 1]) - first if used is None else int(used[page])
        assert end - begin <= longest[0]
        assert count <= longest[1]
        key, value = (part[first : first + count].double() for part in (keys, values))
        groups = queries.shape[1] // keys.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        scores = torch.einsum("qhd,khd->hqk", queries[begin:end].double(), key) * (scale or queries.shape[-1] ** -0.5)
        hidden = torch.ones(end - begin, count).triu(count - (end - begin) + 1).bool()
        weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        seen.append(torch.einsum("hqk,khd->qhd", weights, value).to(queries.dtype))
    return torch.cat(seen)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that has the fused kernel."""
    monkeypatch.setattr(attention, "_fused", flash)


@pytest.fixture
def prompts(model: DeepSeekOcr) -> list[PromptEmbeddings]:
    return [random_prompt(model, seed, *shape) for seed, shape in enumerate([(20, 60), (7, 90), (33, 33), (1, 40)])]


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.usefixtures("fused")
def test_what_a_gpu_s_kernel_is_held_against_is_what_it_should_compute(groups: int) -> None:
    cpu = torch.device("cpu")
    assert prompt_difference(4, groups, 16, cpu, torch.float32) < 1e-5
    for tokens in (1, 4):
        assert slot_difference(tokens, 4, groups, 16, cpu, torch.float32) < 1e-5


def test_a_kernel_that_reads_too_far_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def reads_all(tokens: Any, starts: Any, longest: Any, scale: Any, used: Tensor | None = None) -> Tensor:
        return flash(tokens, starts, longest, scale, None if used is None else used + (used < 256).int())

    monkeypatch.setattr(attention, "_fused", reads_all)
    assert slot_difference(1, 4, 4, 16, torch.device("cpu"), torch.float32) == torch.inf


@pytest.mark.usefixtures("fused")
def test_pages_in_a_pool_read_as_in_slots(model: DeepSeekOcr, prompts: list[PromptEmbeddings]) -> None:
    slots, pool = decode(model, prompts, 40), decode(model, prompts, 40, kernels=FUSED)
    assert [page.ids for page in pool] == [page.ids for page in slots]
    for one, other in zip(pool, slots, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("tokens", [500, 1200, 100_000])
def test_a_pool_too_small_for_all_pages_reads_them_in_turn(
    model: DeepSeekOcr, draw: Callable[..., Image.Image], monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    monkeypatch.setattr("rtprune.engine.decoding.ROOM", 20)
    monkeypatch.setattr("rtprune.engine.cache.STEP", 32)
    pages = [draw(seed) for seed in range(7)]
    engine = Engine(model, ReadSettings(mode="tiny", task="text", max_output_tokens=90, reread=False), slots=5)
    wanted = [(page.status, page.text) for page in engine.read(pages)]
    engine._kernels, engine._cache_tokens = FUSED, tokens
    assert [(page.status, page.text) for page in engine.read(pages)] == wanted


@pytest.mark.usefixtures("fused")
def test_a_page_longer_than_the_pool_is_cut_where_it_ends(
    model: DeepSeekOcr, prompts: list[PromptEmbeddings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "end_token_ids", frozenset())
    monkeypatch.setattr(model, "repeatable_token_ids", frozenset(range(200)))
    whole = decode(model, prompts[:1], 900)[0]
    decoding: Decoding[str] = Decoding(model, 1, 900, 256, FUSED)
    found = dict(decoding.join([("page", prompts[0])]))
    while decoding.names:
        found |= decoding.step()
    cut = found["page"]
    assert cut.finish_reason == "length"
    assert 256 < len(cut.ids) < 900
    assert cut.ids == whole.ids[: len(cut.ids)]


def test_each_token_is_as_probable_as_the_decoder_says(model: DeepSeekOcr, prompts: list[PromptEmbeddings]) -> None:
    prompt = prompts[0]
    (page,) = decode(model, [prompt], 12, guess=False)
    guessed = decode(model, [prompt], 12, [page.ids])[0]
    assert guessed.ids == page.ids
    assert guessed.log_probabilities == pytest.approx(page.log_probabilities, abs=1e-5)
    embeddings = torch.cat([prompt.embeddings, model.embed(torch.tensor(page.ids[:-1]))])
    later = torch.arange(prompt.next_position, prompt.next_position + len(page.ids) - 1)[None]
    positions = torch.cat([prompt.positions, later], dim=1)[:, None]
    logits, _ = model.decoder(embeddings[None], positions, torch.ones(1, len(embeddings)), None, len(page.ids))
    wanted = logits[0].log_softmax(dim=-1).gather(1, torch.tensor(page.ids)[:, None])[:, 0]
    assert page.log_probabilities == pytest.approx(wanted.tolist(), abs=1e-4)


def full_size(mode: FakeTensorMode) -> DeepSeekOcr:
    """DeepSeek-OCR's decoder as large as published, without memory."""
    with mode:
        config = DeepSeekOcr.configuration(copy.deepcopy(dict(FULL_SIZE)))
        network: Any = UnlimitedOcrForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
        return DeepSeekOcr(network, character_tokenizer(1000), name="fake", revision="fake")


def given(rows: int, width: int) -> Tensor:
    return torch.ones(rows, TOKENS + width, dtype=torch.long)


def caches(kind: str, slots: int) -> PageCache:
    return SlotCache(slots, 1024) if kind == "slots" else PooledCache(slots * 1024)


@pytest.mark.parametrize("kind", ["slots", "pool"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_full_size_step_depends_on_no_number_of_the_device(kind: str, width: int) -> None:
    with torch.inference_mode(), FakeTensorMode() as mode:  # raises at any read of a number, and at shapes it decides
        model, cache = full_size(mode), caches(kind, 64)
        found, logits = step(model, cache, 1, given(64, width), 1024 if kind == "slots" else None)
    assert found.shape == (2, 64, width)
    assert logits.shape == (64, width, 129280)


#: Operations of a pass at full size, 12 layers; a new one must be worth what it costs: 2 us in a CUDA graph, 10 us and
#: more outside of one.
CEILINGS = {"step": 860, "prefill": 790}


def test_a_step_and_a_prefill_stay_as_few_operations_as_they_are() -> None:
    counted = {}
    with torch.inference_mode(), FakeTensorMode() as mode:
        model = full_size(mode)
        cache = caches("pool", 64)
        step(model, cache, 1, given(64, 1), None)  # memory is taken once
        with Operations() as operations:
            step(model, cache, 1, given(64, 1), None)
        counted["step"] = operations.counts.total()
        lengths = [300] * 16
        cache.write(torch.zeros(4800, dtype=torch.long), torch.arange(4800), alone=True)
        packed = PackedPrompts(tuple(lengths), torch.zeros(17, dtype=torch.int32), fused=True)
        embeddings, positions = torch.zeros(1, 4800, 1280, dtype=torch.bfloat16), torch.arange(4800)[None, None]
        with Operations() as operations:
            model.decoder(embeddings, positions, None, cache, torch.zeros(16, dtype=torch.long), packed)
        counted["prefill"] = operations.counts.total()
        assert not {"nonzero", "local_scalar_dense", "item", "masked_select"} & operations.counts.keys()
    assert {name: count for name, count in counted.items() if count > CEILINGS[name]} == {}, counted
    assert all(count > 0.9 * CEILINGS[name] for name, count in counted.items()), f"lower the ceilings: {counted}"


def test_a_step_compiles_into_one_graph_and_no_second(model: DeepSeekOcr) -> None:
    compiled = Counter[str]()

    def backend(graph: Any, inputs: Any) -> Any:
        compiled["graphs"] += 1
        return graph

    torch._dynamo.reset()
    cache = SlotCache(3, 64)
    for page in "abc":
        cache.admit(page, 40, 40)
    chance = torch.Generator().manual_seed(1)

    def numbers(round_: int) -> Tensor:
        rows = torch.zeros(3, TOKENS + 2, dtype=torch.long)
        rows[:, 0] = torch.arange(3)
        rows[:, 1:4] = torch.tensor([[round_, 9 + 3 * round_, 5], [2 * round_, 4, 5], [0, 0, 0]])
        rows[:, TOKENS:] = torch.randint(0, 100, (3, 2), generator=chance)
        return rows

    with torch.inference_mode():
        step(model, cache, 1, numbers(0), 64)  # memory is taken once, before anything is compiled
        whole = torch.compile(step, backend=backend, fullgraph=True, dynamic=False)
        for round_ in range(1, 6):
            rows = numbers(round_)
            plain, _ = step(model, cache, 1, rows, 64)
            found, _ = whole(model, cache, 1, rows, 64)
            torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    assert compiled["graphs"] == 1


def test_rows_without_a_page_change_nothing(model: DeepSeekOcr, prompts: list[PromptEmbeddings]) -> None:
    """As a GPU takes steps: rounded up to sizes that have been captured, with dead rows and padded guesses."""

    class Rounded(Stepper):
        def __call__(self, given: np.ndarray) -> Any:
            live, width = len(given), given.shape[1] - TOKENS
            rows, wide = _rounded_up(live, self._rows), next(size for size in WIDTHS if size >= width)
            padded = np.zeros((rows, TOKENS + wide), dtype=np.int64)
            padded[:live, : given.shape[1]] = given
            padded[live:, 0] = [self._cache.spare(row) for row in range(live, rows)]
            said = super().__call__(padded)
            return type(said)(said.tokens[:live], said.log_probabilities[:live], said.logits[:live])

    wanted = decode(model, prompts, 40)
    layers = [page.ids[3:] for page in wanted]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rtprune.engine.decoding.Stepper", Rounded)
        found = decode(model, prompts, 40, layers)
        patch.setattr(attention, "_fused", flash)
        pooled = decode(model, prompts, 40, layers, kernels=FUSED)
    assert [page.ids for page in found] == [page.ids for page in wanted] == [page.ids for page in pooled]
    assert sum(page.accepted for page in found) > 10


def test_on_a_cpu_the_plain_kernels_are_taken(model: DeepSeekOcr) -> None:
    engine = Engine(model, ReadSettings(mode="tiny"))
    assert engine._kernels == PLAIN
    assert not pack([3, 4], torch.device("cpu"), fused=False).fused
