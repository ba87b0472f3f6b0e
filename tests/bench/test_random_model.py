"""A model of random weights: made without files, refused without memory, never at an end before its limit."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from rtprune.bench import random_model as module
from rtprune.bench.pages import drawn_pages
from rtprune.bench.prune import page
from rtprune.bench.random_model import bench_model, models_to_compare, random_model
from rtprune.engine import Engine
from rtprune.errors import ModelError
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.settings import ReadSettings
from tests.bench.sizes import VOCABULARY, small_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> DeepSeekOcr:
    return random_model(small_config(), device=CPU, dtype=torch.float32)


def read(model: DeepSeekOcr, pictures: list[Image.Image], tokens: int) -> list[str]:
    engine = Engine(model, ReadSettings(mode="tiny", task="text", max_output_tokens=tokens), slots=2, guess=False)
    results = engine.read(pictures)
    assert {result.finish_reason for result in results} == {"length"}
    return [result.text for result in results]


def test_an_answer_is_as_long_as_the_limit_whatever_it_says(model: DeepSeekOcr) -> None:
    (text,) = read(model, [page()], 400)
    assert len(text) == 400  # far beyond what ends a page in a loop


def test_pages_are_told_apart_and_pruned_in_part(model: DeepSeekOcr) -> None:
    pictures = [drawn.picture for drawn in drawn_pages(4, built_in=False)]
    assert len(set(read(model, pictures, 8))) == 4
    engine = Engine(model, ReadSettings(mode="tiny", task="text"))
    for picture in pictures:
        _, _, pruned = engine.prune_page(picture)
        assert 0.02 < 1 - pruned.facts.free_after / pruned.facts.free_before < 0.5


def test_every_token_has_a_text_of_its_own(model: DeepSeekOcr) -> None:
    texts = [model.detokenize([token]) for token in range(VOCABULARY)]
    assert len(set(texts)) == VOCABULARY
    assert model.tokenize("Free OCR.\n") == [ord(character) for character in "Free OCR.\n"]


def test_ids_beyond_the_surrogates_are_characters_too() -> None:
    tokenizer = module.character_tokenizer(0xE000)
    assert len({tokenizer.decode([id]) for id in range(0xD7F0, 0xD810)}) == 32


def test_two_makings_have_the_same_weights_and_leave_the_chance_of_others_alone(model: DeepSeekOcr) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    again = random_model(small_config(), device=CPU, dtype=torch.float32)
    assert torch.equal(torch.rand(1), expected)
    for one, other in zip(model.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_all_weights_have_the_type_asked_for() -> None:
    found = random_model(small_config(), device=CPU, dtype=torch.bfloat16)
    assert {weight.dtype for weight in found.network.parameters()} == {torch.bfloat16}
    assert all(weight.isfinite().all() for weight in found.network.parameters())
    assert read(found, [page()], 4)


def test_the_full_size_is_refused_where_memory_lacks_before_any_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda device: 8_000_000_000)
    with pytest.raises(ModelError, match=r"need 10\.0 GB of memory on cpu, 8\.0 GB are free"):
        random_model(device=CPU, dtype=torch.bfloat16)


def test_the_name_random_is_the_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda device: 1)
    with pytest.raises(ModelError, match=r"need 20\.0 GB"):
        bench_model("random", torch.float32)
    with pytest.raises(ModelError, match="no-such-model"):
        bench_model("no-such-model")


def test_the_built_in_model_is_compared_with_float32_where_it_computes_in_less() -> None:
    model, reference = models_to_compare("mini", "bfloat16")
    assert model.dtype == torch.bfloat16
    assert reference is not None
    assert reference.dtype == torch.float32
    assert models_to_compare("mini", "float32")[1] is None
